# SPDX-License-Identifier: Apache-2.0
"""How fast and how large: the published way against ours, see README.md."""
