#!/bin/bash
# ca.sh DIR: a throw-away certificate authority (DIR/ca.pem) and a server certificate signed by it (DIR/server.pem with its chain,
# DIR/server.key) for localhost, mail.contoso.test, 127.0.0.1 and ::1. Does nothing when they are there. For tests only: the key is
# readable by the daemons' users.
set -euo pipefail
mkdir -p "${1:?usage: ca.sh DIR}"
cd "$1"
[ ! -s server.pem ] || exit 0

quiet() { "$@" 2>openssl.err || { cat openssl.err >&2; exit 1; }; }
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

quiet openssl req -x509 "${new_key[@]}" -keyout ca.key -out ca.pem -days 30 -subj "/CN=email-router test CA" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
quiet openssl req "${new_key[@]}" -keyout server.key -out server.csr -subj "/CN=localhost"
cat >server.ext <<EXT
subjectAltName = DNS:localhost, DNS:mail.contoso.test, IP:127.0.0.1, IP:::1
extendedKeyUsage = serverAuth
basicConstraints = CA:FALSE
EXT
quiet openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile server.ext -days 30 -out leaf.pem
chmod 644 server.key ca.pem
cat leaf.pem ca.pem >server.pem
