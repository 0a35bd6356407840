# SPDX-License-Identifier: Apache-2.0
"""The network of registration by anatomical embeddings."""

from anatomical_registration.network import AnatomicalRegistrationNet

__all__ = ["AnatomicalRegistrationNet"]
