# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms for reading, checking and writing scans."""
