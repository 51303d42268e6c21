"""Out and in: trained networks for other programs, and weights from other libraries."""
