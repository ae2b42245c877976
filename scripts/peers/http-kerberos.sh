#!/bin/bash
# http-kerberos.sh start DIR | stop DIR: a private Apache on loopback ports (HTTP, HTTPS) that wants Kerberos for every path (Negotiate, RFC 4559;
# mod_auth_gssapi, so the acceptor is MIT's), everything under DIR. Who has a ticket for HTTP@localhost gets a page that says whose.
#
# KERBEROS=DIR of a running kdc.sh. Ports come from the environment under these names; an unset one gets a free port. All are printed, and
# kept in DIR/ports. TLS_DIR: directory of ca.sh to use (default DIR/tls).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: http-kerberos.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: http-kerberos.sh start|stop DIR}")

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/httpd.pid"
  exit 0
fi

kerberos=${KERBEROS:?the folder of a running kdc.sh}
tls=${TLS_DIR:-$dir/tls}
"$here/ca.sh" "$tls"
take_ports HTTP HTTPS
modules=/usr/lib/apache2/modules
mkdir -p "$dir/www"
printf 'only with a ticket\n' >"$dir/www/index.html"

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
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 0
CONF
  # what is built into this Apache has no file
  for module in mpm_event authz_core authz_user authn_core auth_gssapi dir headers socache_shmcb ssl; do
    [ ! -e "$modules/mod_$module.so" ] || echo "LoadModule ${module}_module $modules/mod_$module.so"
  done
  cat <<CONF
DocumentRoot $dir/www
DirectoryIndex index.html
<Location />
  AuthType GSSAPI
  AuthName "email-router peer"
  GssapiAllowedMech krb5
  GssapiConnectionBound On
  Require valid-user
  Header always set X-Remote-User expr=%{REMOTE_USER}
</Location>
<VirtualHost 127.0.0.1:$HTTPS>
  SSLEngine on
  SSLCertificateFile $tls/server.pem
  SSLCertificateKeyFile $tls/server.key
</VirtualHost>
CONF
} >"$dir/httpd.conf"

KRB5_CONFIG=$kerberos/krb5.conf KRB5_KTNAME=$kerberos/services.keytab apache2 -f "$dir/httpd.conf" -k start 2>"$dir/start.log" ||
  { cat "$dir/start.log" >&2; exit 1; }
wait_ports "$dir/error.log" "$HTTP" "$HTTPS"
tee "$dir/ports" <<PORTS
HTTP=$HTTP
HTTPS=$HTTPS
CA=$tls/ca.pem
PORTS
