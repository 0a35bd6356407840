# SPDX-License-Identifier: Apache-2.0
"""The commands of `python -m monai_ext`, one a file; heavy imports happen inside the functions."""
