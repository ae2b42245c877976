#!/bin/bash
# setup.sh [--bench]: install what the peer scripts start (Dovecot, Postfix, OpenSSL, swaks, GNU tnef) with apt, only what is missing,
# without letting any daemon start by itself; with --bench also the clients that the benchmarks compare with (mpop, fdm, fetchmail). Needs
# root or sudo without a password where something is missing. Exit code 77 = cannot be done on this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"

packages=()
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
have dovecot || packages+=(dovecot-core)
[ -x /usr/lib/dovecot/pop3 ] || packages+=(dovecot-pop3d)
[ -x /usr/lib/dovecot/imap ] || packages+=(dovecot-imapd)
[ -x /usr/lib/dovecot/lmtp ] || packages+=(dovecot-lmtpd)
have postfix || packages+=(postfix)
have openssl || packages+=(openssl)
have swaks || packages+=(swaks)
have tnef || packages+=(tnef)
case ${1:-} in
--bench)
  for client in mpop fdm fetchmail; do
    have "$client" || packages+=("$client")
  done
  ;;
'') ;;
*) echo "setup.sh: $1 is no option; there is --bench" >&2; exit 2 ;;
esac
[ "${#packages[@]}" -gt 0 ] || exit 0

as_root "$0" "$@"
if ! have apt-get; then
  echo "setup.sh: no apt-get on this machine; install by hand: ${packages[*]}" >&2
  exit 77
fi
echo "setup.sh: installing ${packages[*]}"

# invoke-rc.d asks this file before it starts a service; 101 = not allowed
policy=/usr/sbin/policy-rc.d
restore() {
  rm -f "$policy"
  [ ! -e "$policy.email-router" ] || mv "$policy.email-router" "$policy"
}
[ ! -e "$policy" ] || mv "$policy" "$policy.email-router"
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt="apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
# no /etc/postfix/main.cf: our instance brings its own
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
$apt update
$apt install --no-install-recommends "${packages[@]}" >/dev/null </dev/null
