"""Measures rqstack beside other task queues: `make bench`, or `make bench QUICK=1`. See docs/performance.md."""
