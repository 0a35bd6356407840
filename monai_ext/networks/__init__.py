# SPDX-License-Identifier: Apache-2.0
"""Networks in three layers: nets are made of blocks, blocks of layers; never the other way."""
