"""`make faults`: many jobs of every kind under twelve kinds of faults, and the account of each job."""
