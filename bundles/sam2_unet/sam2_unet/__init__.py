# SPDX-License-Identifier: Apache-2.0
"""SAM2-UNet: SAM 2's Hiera encoder with adapters, receptive-field blocks and a U-Net decoder."""
