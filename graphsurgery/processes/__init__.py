"""Tools that run in a process of their own, since they crash, hang or take what memory there is."""
