"""Starting and stopping the whole stack on one machine: with compose, or with honcho where there is no Docker."""
