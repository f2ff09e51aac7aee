"""An app whose tasks do not import, and that asks the database as soon as it is loaded."""
