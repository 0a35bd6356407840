# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the monai-ext bundles: layers, losses, transforms, inferers, handlers and a command line.

Importing this package loads nothing heavy; import what you need from its sub-packages.
"""

__version__ = "0.1.0"
