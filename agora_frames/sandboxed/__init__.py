"""What runs on the other side of a sandbox: a small process of plain Python, which never sees the rest of the package."""
