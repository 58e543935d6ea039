"""A libtorrent peer for the end-to-end tests: seeds or downloads one torrent on loopback.

Prints one JSON line a tenth of a second; ends when its standard input does, or dies without a
word to anybody once it has sent or got as much as it was told.
"""
import argparse
import json
import os
import select
import sys

import libtorrent as lt

args = argparse.ArgumentParser()
args.add_argument("torrent")
args.add_argument("--save", required=True, help="folder that holds, or will hold, the file")
args.add_argument("--listen", required=True, help="IP:PORT")
args.add_argument("--seed", action="store_true", help="the file is whole: do not check it")
args.add_argument("--up-limit", type=int, default=0, help="bytes a second")
args.add_argument("--down-limit", type=int, default=0, help="bytes a second")
args.add_argument("--die-after", type=int, default=0, help="bytes sent as a seed, got otherwise")
args.add_argument("--peer", action="append", default=[], help="IP:PORT to connect to")
args.add_argument("--scrape", action="store_true", help="ask the trackers, and print what they say")
args = args.parse_args()

session = lt.session({
    "listen_interfaces": args.listen,
    "outgoing_interfaces": args.listen.rsplit(":", 1)[0].strip("[]"),
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_incoming_utp": False, "enable_outgoing_utp": False,
    "out_enc_policy": 2, "in_enc_policy": 2,  # plain only
    "allow_multiple_connections_per_ip": True,
    "ssrf_mitigation": False,  # it would ask a tracker on loopback for nothing but /announce
    "unchoke_slots_limit": -1,
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.tracker_notification,
    # Everything is on loopback: nothing that shapes traffic for a real line.
    "rate_limit_ip_overhead": False, "mixed_mode_algorithm": 0,
    "min_reconnect_time": 1, "peer_connect_timeout": 3,
})
params = lt.add_torrent_params()
params.ti = lt.torrent_info(args.torrent)
params.save_path = args.save
params.upload_limit = args.up_limit
params.download_limit = args.down_limit
params.flags &= ~lt.torrent_flags.auto_managed
params.flags &= ~lt.torrent_flags.paused
if args.seed:
    params.flags |= lt.torrent_flags.seed_mode
torrent = session.add_torrent(params)
for peer in args.peer:
    ip, port = peer.rsplit(":", 1)
    torrent.connect_peer((ip, int(port)))

scraped = None
scrape_wait = 0
while True:
    if args.scrape and scrape_wait == 0:
        torrent.scrape_tracker()
        scrape_wait = 20
    scrape_wait = max(0, scrape_wait - 1)
    status = torrent.status()
    line = {
        "state": str(status.state), "progress": status.progress, "seed": status.is_seeding,
        "up": status.total_payload_upload, "down": status.total_payload_download,
        "peers": status.num_peers, "error": status.errc.message() if status.errc.value() else "",
    }
    for alert in session.pop_alerts():
        print("#", alert.message(), file=sys.stderr, flush=True)
        if isinstance(alert, lt.scrape_reply_alert):
            scraped = [alert.complete, alert.incomplete]
    line["scraped"] = scraped
    print(json.dumps(line), flush=True)
    moved = line["up"] if args.seed else line["down"]
    if args.die_after and moved >= args.die_after:
        os._exit(0)
    if select.select([sys.stdin], [], [], 0.1)[0] and not sys.stdin.readline():
        os._exit(0)
