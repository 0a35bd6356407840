# SPDX-License-Identifier: Apache-2.0
"""The server for viewers: a MONAI Label app whose models are our bundles."""

from monai_ext.label.accounts import Accounts
from monai_ext.label.bundle_app import BundleApp
from monai_ext.label.gate import Gate
from monai_ext.label.kept_scans import KeptScans

__all__ = ["Accounts", "BundleApp", "Gate", "KeptScans"]
