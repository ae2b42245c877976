#!/bin/bash
# setup.sh [--bench]: install what the peer scripts start (Dovecot, Samba's ntlm_auth, MIT Kerberos, Postfix, Apache with mod_auth_gssapi and gss-ntlmssp,
# OpenSSL, DavMail, swaks, GNU tnef) with apt, only what is missing, without letting any daemon start by itself; with --bench also the clients that the
# benchmarks compare with (mpop, fdm, fetchmail). Needs root or sudo without a password where something is missing. Then put the Python packages
# of the peers (pyspnego, MSAL, azure-identity, exchangelib, Microsoft's SDK for Dataverse, odata-query) into a virtual environment of our own: PEERS_VENV, default peers-venv in the target folder; and those
# from npm (Microsoft's client of Graph, dynamics-web-api, SAP's fe-mockserver-core) into a folder of our own: PEERS_NODE, default peers-node there.
# Exit code 77 = cannot be done on this machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"

packages=()
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
have dovecot || packages+=(dovecot-core)
[ -x /usr/lib/dovecot/pop3 ] || packages+=(dovecot-pop3d)
[ -x /usr/lib/dovecot/imap ] || packages+=(dovecot-imapd)
[ -x /usr/lib/dovecot/lmtp ] || packages+=(dovecot-lmtpd)
[ -e /usr/lib/dovecot/modules/auth/libmech_gssapi.so ] || packages+=(dovecot-gssapi)
have krb5kdc || packages+=(krb5-kdc)
have kadmin.local || packages+=(krb5-admin-server)
have kinit || packages+=(krb5-user)
have postfix || packages+=(postfix)
have apache2 || packages+=(apache2)
[ -e /usr/lib/apache2/modules/mod_auth_gssapi.so ] || packages+=(libapache2-mod-auth-gssapi)
[ -e /etc/gss/mech.d/mech.ntlmssp.conf ] || packages+=(gss-ntlmssp)
have openssl || packages+=(openssl)
have ntlm_auth || packages+=(winbind)
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
have node || packages+=(nodejs)
have npm || packages+=(npm)
have davmail-server || packages+=(davmail-server)
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

# with apt, as root: what follows runs as whoever called, so that the target folder stays theirs
install_packages() {
  export SETUP_APT_ONLY=1
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
}
if [ "${#packages[@]}" -gt 0 ]; then
  # in a process of its own: as_root replaces it where it has to
  (install_packages "$@")
fi
[ -z "${SETUP_APT_ONLY:-}" ] || exit 0

# what comes from PyPI, each at the version the tests were written with; the file beside it says what is installed
python_packages=(pyspnego==0.12.4 msal==1.39.0 azure-identity==1.27.0 exchangelib==5.6.0 PowerPlatform-Dataverse-Client==1.1.0 odata-query==0.10.0)
root=$(cd "$here/../.." && pwd -P)
venv=${PEERS_VENV:-${CARGO_TARGET_DIR:-$root/target}/peers-venv}
make_venv() {
  [ "$(cat "$venv/installed" 2>/dev/null)" != "${python_packages[*]}" ] || return 0
  echo "setup.sh: installing ${python_packages[*]} in $venv"
  mkdir -p "$(dirname "$venv")"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" --quiet --disable-pip-version-check install "${python_packages[@]}"
  echo "${python_packages[*]}" >"$venv/installed"
}
make_venv

# and what comes from npm
node_packages=(@microsoft/microsoft-graph-client@3.0.7 dynamics-web-api@2.5.0 @sap-ux/fe-mockserver-core@1.7.16)
node=${PEERS_NODE:-${CARGO_TARGET_DIR:-$root/target}/peers-node}
make_node() {
  [ "$(cat "$node/installed" 2>/dev/null)" != "${node_packages[*]}" ] || return 0
  echo "setup.sh: installing ${node_packages[*]} in $node"
  mkdir -p "$node"
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$node" "${node_packages[@]}" >/dev/null
  echo "${node_packages[*]}" >"$node/installed"
}
make_node
