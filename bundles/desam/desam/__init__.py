# SPDX-License-Identifier: Apache-2.0
"""DeSAM: Segment Anything with masks decoupled from prompts.

The network is in `desam.network`; import it from there (``from desam.network import DeSAM``), as the configs do.
"""
