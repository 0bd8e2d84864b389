"""Many recipes and models taken to many targets: each a job of its own, and however it ends, a row of a table."""
