"""Tasks for message backends, and how to see that they ran."""
