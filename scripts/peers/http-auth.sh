#!/bin/bash
# http-auth.sh start DIR | stop DIR: a private Apache on loopback ports that wants NTLM or Negotiate (SPNEGO around NTLM) for every path, as the front
# door of an Exchange Server does: the login proves the connection (mod_auth_gssapi, so the acceptor is gss-ntlmssp). Everything under DIR.
#
#   HTTP    in clear, connections stay open
#   HTTPS   the same inside TLS
#   SHORT   in clear, a connection is closed after each third request
#   FRONT   in clear, as the front door of an Exchange Server: who is let in reaches the server on port UPSTREAM of this machine, which sees
#           the name alice and her password (Basic) whoever it was. Nobody need listen on UPSTREAM
# Ports come from the environment under these names; an unset one gets a free port. All are printed, and kept in DIR/ports.
# GET / says "let in"; POST /echo answers with what it got. Users: CONTOSO\alice, password Secret123, and CONTOSO\bob, password Secret456.
# Channel bindings are not looked at by this module. It needs the first message of NTLM in the form with a version.
# KERBEROS=DIR of a running kdc.sh: Kerberos inside Negotiate, too, for who has a ticket for HTTP@localhost.
# TLS_DIR: directory of ca.sh to use (default DIR/tls).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: http-auth.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: http-auth.sh start|stop DIR}")

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/httpd.pid"
  exit 0
fi

tls=${TLS_DIR:-$dir/tls}
"$here/ca.sh" "$tls"
take_ports HTTP HTTPS SHORT FRONT UPSTREAM
modules=/usr/lib/apache2/modules
kerberos=${KERBEROS:-}
[ -z "$kerberos" ] || export KRB5_CONFIG=$kerberos/krb5.conf KRB5_KTNAME=$kerberos/services.keytab
mkdir -p "$dir/www"
printf 'let in\n' >"$dir/www/index.html"
printf '%s\n' CONTOSO:alice:Secret123 :alice@contoso.test:Secret123 CONTOSO:bob:Secret456 >"$dir/users"
chmod 644 "$dir/users" "$dir/www/index.html"

{
  cat <<CONF
ServerRoot $dir
ServerName localhost
PidFile $dir/httpd.pid
ErrorLog $dir/error.log
DefaultRuntimeDir $dir
User www-data
Group www-data
Listen 127.0.0.1:$HTTP
Listen 127.0.0.1:$HTTPS
Listen 127.0.0.1:$SHORT
Listen 127.0.0.1:$FRONT
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
CONF
  # what is built into this Apache has no file
  for module in mpm_event authz_core authz_user authn_core auth_gssapi dir headers log_config proxy proxy_http reflector socache_shmcb ssl; do
    [ ! -e "$modules/mod_$module.so" ] || echo "LoadModule ${module}_module $modules/mod_$module.so"
  done
  cat <<CONF
LogFormat "%p %{%T}t %u \"%r\" %>s %k" peer
CustomLog $dir/access.log peer
DocumentRoot $dir/www
DirectoryIndex index.html
<Location />
  AuthType GSSAPI
  AuthName "email-router peer"
  GssapiAllowedMech ntlmssp
  ${kerberos:+GssapiAllowedMech krb5}
  GssapiConnectionBound On
  Require valid-user
  Header always set X-Remote-User expr=%{REMOTE_USER}
</Location>
<Location /echo>
  SetHandler reflector
</Location>
<VirtualHost 127.0.0.1:$HTTPS>
  SSLEngine on
  SSLCertificateFile $tls/server.pem
  SSLCertificateKeyFile $tls/server.key
</VirtualHost>
<VirtualHost 127.0.0.1:$FRONT>
  ProxyPass / http://127.0.0.1:$UPSTREAM/ retry=0 disablereuse=on
  RequestHeader set Authorization "Basic $(printf alice:Secret123 | base64)"
</VirtualHost>
<VirtualHost 127.0.0.1:$SHORT>
  MaxKeepAliveRequests 3
</VirtualHost>
CONF
} >"$dir/httpd.conf"

NTLM_USER_FILE=$dir/users apache2 -f "$dir/httpd.conf" -k start 2>"$dir/start.log" || { cat "$dir/start.log" >&2; exit 1; }
wait_ports "$dir/error.log" "$HTTP" "$HTTPS" "$SHORT" "$FRONT"
tee "$dir/ports" <<PORTS
HTTP=$HTTP
HTTPS=$HTTPS
SHORT=$SHORT
FRONT=$FRONT
UPSTREAM=$UPSTREAM
CA=$tls/ca.pem
PORTS
