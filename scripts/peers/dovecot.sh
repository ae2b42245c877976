#!/bin/bash
# dovecot.sh start DIR | stop DIR: a private Dovecot 2.3 on loopback ports, everything under DIR.
#
# POP3, IMAP (clear, TLS offered), POP3S, IMAPS (TLS from the first byte), LMTP (delivers any user at contoso.test), SASL (for Postfix).
# Ports come from the environment under these names; an unset one gets a free port. All are printed, and kept in DIR/ports.
# Users alice, bob and u000, u001 ... (MAILBOXES of them, default 20), each with password Secret123; log in as "alice" or
# "alice@contoso.test" with USER/PASS, APOP, PLAIN, LOGIN or CRAM-MD5. Mail lies in DIR/mail/<user>/{new,cur,tmp}; a file that is
# put there by hand must be readable by the user nobody.
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
for user in alice bob $(seq -f 'u%03g' 0 $((${MAILBOXES:-20} - 1))); do
  echo "$user:{PLAIN}Secret123" >>"$dir/users"
  mkdir -p "$dir/mail/$user/new" "$dir/mail/$user/cur" "$dir/mail/$user/tmp"
done
chown -R nobody:nogroup "$dir/mail"
# whoever runs the tests, and need not be root, puts mail there by hand; Dovecot gives its own files the modes of the folder
chmod -R a+rwX "$dir/mail"
chown root:dovecot "$dir/users"
chmod 640 "$dir/users"

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
auth_mechanisms = plain login cram-md5 apop

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
  driver = passwd-file
  args = username_format=%n $dir/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=$dir/mail/%n allow_all_users=yes
}
namespace inbox {
  inbox = yes
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
PORTS
