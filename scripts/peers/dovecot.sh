#!/bin/bash
# dovecot.sh start DIR | stop DIR: a private Dovecot 2.3 on loopback ports, everything under DIR.
#
# POP3, IMAP (clear, TLS offered), POP3S, IMAPS (TLS from the first byte), LMTP (delivers any user at contoso.test), SASL (for Postfix).
# Ports come from the environment under these names; an unset one gets a free port. All are printed, and kept in DIR/ports.
# Users alice, bob and u000, u001 ... (MAILBOXES of them, default 40), each with password Secret123; log in as "alice" or
# "alice@contoso.test" with USER/PASS, APOP, PLAIN, LOGIN or CRAM-MD5; or with NTLM, which is Samba's (DIR/ntlm_auth.sh) and takes every name
# with that password, "CONTOSO\alice" too, one login at a time: Dovecot keeps one helper process and mixes up two. (Its GSS-SPNEGO with the same
# helper refuses every message that has a NUL octet, which all have.) Mail lies in DIR/mail/<user>/{new,cur,tmp}; a file that is put there by hand must be readable by
# the user nobody.
#
# XOAUTH2 and OAUTHBEARER take tokens like those of Exchange Online for an application (claim idtyp=app): they open every mailbox. They are JSON
# Web Tokens, signed (HS256) with a key of this run. DIR/tokens has some to be sent as they are: good, renewed (as good, another text), expired,
# forged (another key), delegated (of a person, not of an application).
# KERBEROS=DIR of a running kdc.sh: GSSAPI, too, for alice@CONTOSO.TEST.
# TLS_DIR: directory of ca.sh to use (default DIR/tls).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: dovecot.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: dovecot.sh start|stop DIR}")

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/run/master.pid"
  exit 0
fi

case $(dovecot --version) in
2.3.*) ;;
*) echo "dovecot.sh: found Dovecot $(dovecot --version); this script writes a configuration for 2.3" >&2; exit 77 ;;
esac

tls=${TLS_DIR:-$dir/tls}
"$here/ca.sh" "$tls"
take_ports POP3 POP3S IMAP IMAPS LMTP SASL
mkdir -p "$dir/run" "$dir/mail"

# APOP and CRAM-MD5 need the password itself on the server, hence {PLAIN}
: >"$dir/users"
for user in alice bob $(seq -f 'u%03g' 0 $((${MAILBOXES:-40} - 1))); do
  echo "$user:{PLAIN}Secret123" >>"$dir/users"
  mkdir -p "$dir/mail/$user/new" "$dir/mail/$user/cur" "$dir/mail/$user/tmp"
done
chown -R nobody:nogroup "$dir/mail"
# whoever runs the tests, and need not be root, puts mail there by hand; Dovecot gives its own files the modes of the folder
chmod -R a+rwX "$dir/mail"
chown root:dovecot "$dir/users"
chmod 640 "$dir/users"

# a Samba of its own without domain and daemon: the helper compares with one password, whoever logs in
mkdir -p "$dir/samba"
chown dovecot "$dir/samba"
{
  printf '[global]\nworkgroup = CONTOSO\nnetbios name = EXCH\nserver role = standalone\n'
  printf '%s directory = %s\n' lock "$dir/samba" state "$dir/samba" cache "$dir/samba"
  printf 'private dir = %s\n' "$dir/samba"
} >"$dir/smb.conf"
printf '#!/bin/sh\nexec ntlm_auth "$@" --configfile=%s --password=Secret123\n' "$dir/smb.conf" >"$dir/ntlm_auth.sh"
chmod 755 "$dir/ntlm_auth.sh"

# where Dovecot looks for the key of a token that names none
mkdir -p "$dir/keys/default/HS256" "$dir/tokens"
openssl rand -base64 32 | tr -d '\n' >"$dir/keys/default/HS256/default"
key=$(base64 -d "$dir/keys/default/HS256/default" | od -An -v -tx1 | tr -d ' \n')
base64url() { base64 -w0 | tr '+/' '-_' | tr -d '='; }
# token KEY SECONDS KIND NUMBER
token() {
  local body
  body=$(printf '{"alg":"HS256","typ":"JWT"}' | base64url).$(printf '{"exp":%d,"idtyp":"%s","sub":"router","upn":"alice","n":%d}' $(($(date +%s) + $2)) "$3" "$4" | base64url)
  printf '%s.%s' "$body" "$(printf '%s' "$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary | base64url)"
}
token "$key" 864000 app 1 >"$dir/tokens/good"
token "$key" 864000 app 2 >"$dir/tokens/renewed"
token "$key" -3600 app 3 >"$dir/tokens/expired"
token "$(openssl rand -hex 32)" 864000 app 4 >"$dir/tokens/forged"
token "$key" 864000 user 5 >"$dir/tokens/delegated"
cat >"$dir/oauth2.conf" <<CONF
introspection_mode = local
local_validation_key_dict = fs:posix:prefix=$dir/keys/
username_attribute = idtyp
username_format = app
active_attribute = idtyp
active_value = app
CONF
chmod -R a+rX "$dir/keys" "$dir/tokens" "$dir/oauth2.conf"

kerberos=${KERBEROS:-}
if [ -n "$kerberos" ]; then
  [ -e /usr/lib/dovecot/modules/auth/libmech_gssapi.so ] || { echo "dovecot.sh: dovecot-gssapi is not installed" >&2; exit 77; }
  export KRB5_CONFIG=$kerberos/krb5.conf
fi

cat >"$dir/dovecot.conf" <<CONF
base_dir = $dir/run
state_dir = $dir/run
instance_name = email-router-peer
log_path = $dir/dovecot.log
listen = 127.0.0.1
protocols = pop3 imap lmtp

ssl = yes
ssl_cert = <$tls/server.pem
ssl_key = <$tls/server.key
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 apop ntlm xoauth2 oauthbearer${kerberos:+ gssapi}
${kerberos:+# whatever this machine is called, the keys are those of localhost
auth_gssapi_hostname = \"\$ALL\"
auth_krb5_keytab = $kerberos/services.keytab
import_environment = \$import_environment KRB5_CONFIG=$KRB5_CONFIG}
auth_use_winbind = yes
auth_winbind_helper_path = $dir/ntlm_auth.sh

# a wrong password is part of the tests: answer it at once, each time
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}

# hundreds of mailboxes are polled from one address at the same time
mail_max_userip_connections = 0
service pop3-login {
  service_count = 0
  client_limit = 2000
  inet_listener pop3 {
    port = $POP3
  }
  inet_listener pop3s {
    port = $POP3S
    ssl = yes
  }
}
service pop3 {
  process_limit = 2000
}
service imap-login {
  service_count = 0
  client_limit = 2000
  inet_listener imap {
    port = $IMAP
  }
  inet_listener imaps {
    port = $IMAPS
    ssl = yes
  }
}
service imap {
  process_limit = 2000
}
service auth {
  client_limit = 8000
  inet_listener sasl {
    address = 127.0.0.1
    port = $SASL
  }
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = $LMTP
  }
}

mail_location = maildir:$dir/mail/%n
# the mail is worth nothing after the run
mail_fsync = never
first_valid_uid = 1
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = $dir/oauth2.conf
}
passdb {
  driver = passwd-file
  args = username_format=%n $dir/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=$dir/mail/%n allow_all_users=yes
}
namespace inbox {
  inbox = yes
  mailbox Spam {
    auto = create
    special_use = \Junk
  }
}
CONF

dovecot -c "$dir/dovecot.conf" || { tail -n 20 "$dir/dovecot.log" >&2; exit 1; }
wait_ports "$dir/dovecot.log" "$POP3" "$POP3S" "$IMAP" "$IMAPS" "$LMTP" "$SASL"
tee "$dir/ports" <<PORTS
POP3=$POP3
POP3S=$POP3S
IMAP=$IMAP
IMAPS=$IMAPS
LMTP=$LMTP
SASL=$SASL
CA=$tls/ca.pem
MAIL=$dir/mail
TOKENS=$dir/tokens
PORTS
