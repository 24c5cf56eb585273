"""The peers: clients of other packages that do the same work, a file each.

Each is used as its documentation shows, with one client, as many connections as requests in flight, and its
checks for bad statuses; the body goes through the same msgspec struct, which is the fastest way to read
it. Where a peer has switches that matter, its file says what they are set to.
"""
