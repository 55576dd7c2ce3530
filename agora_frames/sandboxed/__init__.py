"""What runs on the other side of a sandbox: a small process of plain Python, without the rest of the package."""
