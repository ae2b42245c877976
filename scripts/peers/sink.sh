#!/bin/bash
# sink.sh start DIR [options of smtp-sink(1)] | stop DIR: an SMTP server (Postfix's smtp-sink) that accepts everything.
# Each accepted message becomes one file in DIR/mail: the envelope as X-Mail-Args and X-Rcpt-Args lines, then the message.
# Port: SINK in the environment, or a free one; printed, and kept in DIR/ports. Useful options: -w SECONDS delays the answer to the
# final dot, -f COMMAND answers it with 5xx, -q COMMAND hangs up on it, -p offers no PIPELINING.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: sink.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: sink.sh start|stop DIR}")
shift 2

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/sink.pid"
  exit 0
fi

take_ports SINK
mkdir -p "$dir/mail"
chown nobody:nogroup "$dir/mail"
chmod 755 "$dir/mail"
# the sink runs as the user nobody; the mode lets the tests read what it writes
(umask 022 && exec smtp-sink -u nobody -h sink.test -d "$dir/mail/%H%M." "$@" "127.0.0.1:$SINK" 1024) >"$dir/sink.log" 2>&1 &
echo $! >"$dir/sink.pid"
wait_ports "$dir/sink.log" "$SINK"
tee "$dir/ports" <<PORTS
SINK=$SINK
SINK_MAIL=$dir/mail
PORTS
