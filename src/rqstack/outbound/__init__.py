"""Requests to other machines: only to allowed addresses, within one deadline, redirects followed one by one."""

from rqstack.outbound.addresses import AddressRules
from rqstack.outbound.request import RequestFailed, RequestRefused, RequestTimeout, open_url

__all__ = ["AddressRules", "RequestFailed", "RequestRefused", "RequestTimeout", "open_url"]
