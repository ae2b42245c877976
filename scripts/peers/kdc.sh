#!/bin/bash
# kdc.sh start DIR | stop DIR: a private MIT Kerberos key distribution centre on a loopback port (KDC, UDP and TCP), everything under DIR.
#
# Realm CONTOSO.TEST with the users alice (password Secret123) and svc (password Svc123!), and the services pop, imap, smtp and HTTP at
# localhost. DIR holds, besides the database:
#   krb5.conf           for KRB5_CONFIG of clients and servers. It knows the realm DOWN.TEST, too, whose centre nobody runs
#   services.keytab     keys of the services
#   alice.keytab        key of alice, as KRB5_CLIENT_KTNAME wants it
#   stranger.keytab     a key of nobody@CONTOSO.TEST, whom the centre does not know
#   stale.keytab        a key of alice made from another password than hers
#   down.keytab         a key of alice@DOWN.TEST
#   alice.ccache        a ticket cache with a ticket of alice, good for ten hours
#   expired.ccache      one whose ticket has expired
# The port comes from the environment; where it is unset, a free one is taken. All is printed, and kept in DIR/ports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: kdc.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: kdc.sh start|stop DIR}")
export PATH=$PATH:/usr/sbin

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/kdc.pid"
  exit 0
fi

realm=CONTOSO.TEST
take_ports KDC NOBODY

# no DNS: the names of the tests are in no zone, and localhost must stay localhost
cat >"$dir/krb5.conf" <<CONF
[libdefaults]
  default_realm = $realm
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
[realms]
  $realm = {
    kdc = 127.0.0.1:$KDC
  }
  DOWN.TEST = {
    kdc = 127.0.0.1:$NOBODY
  }
[domain_realm]
  localhost = $realm
  .contoso.test = $realm
CONF
cat >"$dir/kdc.conf" <<CONF
[kdcdefaults]
  kdc_listen = 127.0.0.1:$KDC
  kdc_tcp_listen = 127.0.0.1:$KDC
[realms]
  $realm = {
    database_name = $dir/principal
    key_stash_file = $dir/stash
    acl_file = $dir/acl
    max_life = 10h
  }
[logging]
  kdc = FILE:$dir/kdc.log
  default = FILE:$dir/kdc.log
CONF
export KRB5_CONFIG=$dir/krb5.conf KRB5_KDC_PROFILE=$dir/kdc.conf

quiet() { "$@" >"$dir/setup.log" 2>&1 </dev/null || { cat "$dir/setup.log" >&2; exit 1; }; }
# start again on an old folder: a new realm
rm -f "$dir"/principal* "$dir"/*.keytab "$dir"/*.ccache "$dir/stash"
quiet kdb5_util create -s -r "$realm" -P "a password of nobody's"
{
  echo "addprinc -pw Secret123 alice"
  echo "addprinc -pw Svc123! svc"
  echo "ktadd -norandkey -k $dir/alice.keytab alice"
  for service in pop imap smtp HTTP; do
    echo "addprinc -randkey $service/localhost"
    echo "ktadd -k $dir/services.keytab $service/localhost"
  done
} | kadmin.local -r "$realm" >"$dir/setup.log" 2>&1
# keytab NAME PRINCIPAL PASSWORD: a keytab that the centre knows nothing of
keytab() {
  printf 'addent -password -p %s -k 1 -e aes256-cts-hmac-sha1-96\n%s\nwkt %s\n' "$2" "$3" "$dir/$1" | ktutil >/dev/null
}
keytab stranger.keytab "nobody@$realm" Secret123
keytab stale.keytab "alice@$realm" Secret122
keytab down.keytab alice@DOWN.TEST Secret123

krb5kdc -P "$dir/kdc.pid" -r "$realm"
wait_ports "$dir/kdc.log" "$KDC"
quiet kinit -k -t "$dir/alice.keytab" -c "FILE:$dir/expired.ccache" -l 1s alice
while klist -s -c "FILE:$dir/expired.ccache"; do sleep 0.05; done
quiet kinit -k -t "$dir/alice.keytab" -c "FILE:$dir/alice.ccache" alice
# servers run as users of their own, and so may the tests
chmod 644 "$dir"/*.keytab
chmod 666 "$dir"/*.ccache
tee "$dir/ports" <<PORTS
KDC=$KDC
KRB5_CONFIG=$dir/krb5.conf
KEYTAB=$dir/services.keytab
PORTS
