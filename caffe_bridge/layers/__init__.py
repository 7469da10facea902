"""Layer types, one file each; found by the registry at first use."""
