"""The thin shell: sockets, the poller and the timer around the sans-IO cores."""

import dns._features

# dnspython would import an HTTP client at once: half a second and ten megabytes, which only https://
# upstreams need. `upstream.Carrier` imports it when there is one.
dns._features.force("doh", False)
