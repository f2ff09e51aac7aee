from probe.version import VERSION as VERSION
