# SPDX-License-Identifier: Apache-2.0
"""What the shipping commands do: reading weights, exporting networks, packing bundles."""
