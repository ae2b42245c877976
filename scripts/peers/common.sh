# Shared by the peer scripts; source it. Nothing here matches a process by name: what we stop, we stop by its recorded id.

# Run the calling script as root: the daemons drop to their own users, which only root can let them do.
# Usage: as_root "$0" "$@" as the first statement. Exit code 77 = cannot, as in automake's tests.
as_root() {
  [ "$(id -u)" -ne 0 ] || return 0
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then exec sudo -nE bash "$@"; fi
  echo "$(basename "$1"): needs root, or sudo without a password; run it as root, or use 'scripts/test --no-peers'" >&2
  exit 77
}

# Print a loopback TCP port that nothing uses. Below the kernel's range for outgoing connections (32768 and up), so that no
# connection of the tests can take it between this moment and the daemon's bind; never the same twice in one script.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    case " ${PORTS_GIVEN:-} " in *" $port "*) continue ;; esac
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# take_ports NAME...: give each variable a free port, unless the environment already gave it one.
take_ports() {
  local name
  for name; do
    [ -n "${!name:-}" ] || printf -v "$name" '%s' "$(free_port)"
    PORTS_GIVEN="${PORTS_GIVEN:-} ${!name}"
  done
}

# wait_ports LOG PORT...: wait until each port accepts (20 s), or show the end of the log and fail.
wait_ports() {
  local log=$1 port tries
  shift
  for port; do
    tries=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
      tries=$((tries + 1))
      if [ "$tries" -gt 400 ]; then
        echo "no server answered on port $port within 20 s; end of $log:" >&2
        tail -n 20 "$log" >&2
        return 1
      fi
      sleep 0.05
    done
  done
}

# stop_pid_file FILE: TERM the recorded process, wait up to 10 s, then KILL. A missing file means there is nothing to stop.
stop_pid_file() {
  [ -s "$1" ] || return 0
  local pid tries=0
  pid=$(tr -dc '0-9' <"$1")
  kill -TERM "$pid" 2>/dev/null || true
  while alive "$pid" && [ "$tries" -lt 200 ]; do
    tries=$((tries + 1))
    sleep 0.05
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$1"
}

# alive PID: whether it runs. A zombie has ended, however late its parent (in a container often an idle init) collects it.
alive() {
  kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}

# peer_dir DIR: create it, let the daemons' users pass through it, print its absolute path.
peer_dir() {
  mkdir -p "$1" && chmod 755 "$1" && (cd "$1" && pwd -P)
}
