"""What each setting of settings.py is for, in a sentence: docs/reference shows it."""

MEANINGS = {
    "archive": "Directory of the archived output; several servers share one. Default: in `data`.",
    "data": "The directory of this process.",
    "up.data": "Where everything is kept. Default: `/var/lib/quarterdeck` for root, else "
    "`$XDG_DATA_HOME/quarterdeck`.",
    "cors_origins": "Origins whose pages may watch traces and call the API from a browser, "
    "separated by commas; `*` for all.",
    "frame_ancestors": "Origins whose pages may show our page of a trace in a frame, separated "
    "by commas.",
    "client.data": "Data directory of a `qd up` on this machine.",
    "downloads": "Directory of the files offered at `/download/`. Default: `dist`, where `./dev "
    "build` puts them, of a server that runs from its sources.",
    "database": "Address of a PostgreSQL; without it SQLite in `data`.",
    "agent.fabric": "How the fabric is reached: `auto`, `tcp`, `wss`, or addresses of one.",
    "fabric.keys": "Directory of the installation's keys. Default: `keys` in `data`.",
    "fabric.listen": "HOST:PORT of the fabric (port 0: a free one that is kept).",
    "fabric.min_free_mib": "So much must be free before it is started anew after a full disk.",
    "fabric.public_url": "Where servers and nodes reach the fabric.",
    "fabric_ca": "PEM file the fabric is verified with, or `system`.",
    "fabric_listen": "HOST:PORT of the fabric. Default: the host of `listen`, a port that is kept.",
    "fabric_public_url": "Where nodes reach the fabric. Default: the host they reach the API at.",
    "fabric_url": "Where this server reaches the fabric.",
    "fingerprint": "SHA-256 of the server's certificate, to pin it.",
    "trusted_proxies": "Reverse proxies (addresses and networks, separated by commas) that are "
    "believed when they say in X-Forwarded-For who calls.",
    "max_links": "How many links of nodes to the fabric the API's listener carries at once.",
    "server_ca": "PEM file that the server's certificate is verified with, its names included; or "
    "`system`. Default: what the token pins, else `system`.",
    "websocket_listen": "HOST:PORT of the fabric's WebSocket. Default: none.",
    "websocket_public_url": "Where nodes reach the fabric's WebSocket. Default: `/fabric` below "
    "the address they reach the API at.",
    "websocket_url": "Where this server reaches the fabric's WebSocket, to carry it at `/fabric`.",
    "leaf_of": "URL of a server, to be a leaf node of its fabric.",
    "fabric.token": "The leaf token, needed once.",
    "slots": "How many attempts the node takes at once (0: two for each CPU).",
    "heartbeat_s": "Seconds between two beats of a node, 0.1 to 3600.",
    "join": "URL of a server to enrol with.",
    "keys": "Directory of the installation's keys; several servers share one.",
    "labels": "key = value pairs of this node, for targets; `group` has many values. As a variable "
    "`KEY=VALUE,KEY=VALUE`. File, variable and flags are put together.",
    "listen": "HOST:PORT of the API.",
    "log_level": "What is logged at least: debug, info, warning or error.",
    "max_streams": "How many live streams (SSE) may be open at once.",
    "metrics": "Who reads `/metrics` without a token: auto (anybody when listening on loopback), "
    "open (anybody), token (nobody).",
    "min_free_mib": "Below this much free disk new work is refused.",
    "name": "Display name of this node. Default: the host's name.",
    "nodes": "How many agents run here, 0 to 1000.",
    "trace_window_s": "For how long ephemeral traces can be looked back into.",
    "trace_window_mib": "How much of the ephemeral traces of one namespace is in memory.",
    "trace_kept_mib": "How much of one kept trace is recorded; what comes later is counted.",
    "ingest": "Where senders of other tools are heard: rtail=HOST:PORT,logio=...,logio4=...,"
    "syslog=... (port 0: a free one that is kept).",
    "ingest_namespace": "The namespace of the traces these become.",
    "out_max_mib": "How much recent output the fabric may keep.",
    "package": "What `pip install` is given on new machines: a name, a URL, or a file there.",
    "plain_http": "HTTP without TLS although others than this machine reach it.",
    "public_url": "Where others reach the API.",
    "state": "The node's own directory. Default: `/var/lib/quarterdeck/agent` for root, else "
    "`$XDG_DATA_HOME/quarterdeck/agent`.",
    "tls_cert": "PEM file of the API's certificate. Default beyond loopback: made in `data`.",
    "tls_key": "PEM file of its key.",
    "token": "The join token, needed once.",
    "client.token": "The API token.",
    "url": "Address of a server.",
}
"""`kind.name` where a kind of process differs."""
