#!/bin/bash
# postfix.sh start DIR | stop DIR | queue DIR: a private Postfix on loopback ports, everything under DIR.
#
#   SMTP   anonymous relay, STARTTLS offered
#   AUTH   authentication required, STARTTLS offered
#   SUBM   STARTTLS required, then authentication required (as port 587)
#   SMTPS  TLS from the first byte, authentication required (as port 465)
# Ports come from the environment under these names; an unset one gets a free port. All are printed, and kept in DIR/ports.
#
# DOVECOT=DIR of a running dovecot.sh: its users authenticate here (with all its mechanisms, Samba's NTLM and OAuth 2.0 included), and mail for
# contoso.test goes into their mailboxes by LMTP. SINK=port of a running sink.sh: gets the mail for every other domain, which is thrown away
# otherwise.
# Nothing ever leaves the machine.
#
# Refusals, at any domain: permfail@ 550, full@ 552, tempfail@ 450, grey@ 451 at the first attempt and accepted later (per sender
# and recipient); sender refused@ 550 (at MAIL on the relay port, at RCPT on the others); REFUSE-AFTER-DATA in the subject: 550 for
# the whole message after its last byte.
# TLS_DIR: directory of ca.sh to use (default DIR/tls).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
as_root "$0" "$@"
verb=${1:?usage: postfix.sh start|stop|queue DIR}
dir=$(peer_dir "${2:?usage: postfix.sh start|stop|queue DIR}")

case $verb in
stop)
  stop_pid_file "$dir/spool/pid/master.pid"
  exit 0
  ;;
queue) exec postqueue -c "$dir/etc" -j ;;
esac

tls=${TLS_DIR:-$dir/tls}
"$here/ca.sh" "$tls"
sink=${SINK:-}
take_ports SMTP AUTH SUBM SMTPS
mkdir -p "$dir/etc" "$dir/spool" "$dir/data" "$dir/grey"
chown postfix "$dir/data"
chown nobody "$dir/grey"
# the folder of this script may be closed to the user nobody
install -m 755 "$here/greylist.sh" "$dir/greylist.sh"

elsewhere=discard:
[ -z "$sink" ] || elsewhere="smtp:[127.0.0.1]:$sink"
mailboxes=$elsewhere
sasl=127.0.0.1:9
if [ -n "${DOVECOT:-}" ]; then
  mailboxes=lmtp:inet:127.0.0.1:$(sed -n 's/^LMTP=//p' "$DOVECOT/ports")
  sasl=127.0.0.1:$(sed -n 's/^SASL=//p' "$DOVECOT/ports")
fi

cat >"$dir/etc/main.cf" <<CONF
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
command_directory = $(postconf -dh command_directory)
daemon_directory = $(postconf -dh daemon_directory)
mail_owner = postfix
setgid_group = postdrop
maillog_file = $dir/postfix.log
maillog_file_prefixes = $dir
myhostname = mail.contoso.test
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8

mydestination =
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = contoso.test
virtual_mailbox_maps = regexp:{ {/./ ok} }
virtual_transport = $mailboxes
default_transport = $elsewhere
relay_transport = $elsewhere
smtp_dns_support_level = disabled
smtp_host_lookup = native
# a refusal by the sink must come back as it is, not from a cache of bad destinations
smtp_destination_concurrency_failed_cohort_limit = 0
lmtp_destination_concurrency_failed_cohort_limit = 0

smtpd_tls_cert_file = $tls/server.pem
smtpd_tls_key_file = $tls/server.key
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:$sasl
smtpd_sasl_security_options = noanonymous

smtpd_sender_restrictions = check_sender_access regexp:{ {/^refused@/ 550 5.7.1 sender refused} }
smtpd_recipient_restrictions = check_recipient_access regexp:{ {/^permfail@/ 550 5.1.1 no such user} {/^full@/ 552 5.2.2 mailbox full} {/^tempfail@/ 450 4.2.1 mailbox busy, try again later} {/^grey@/ greylist} }
smtpd_restriction_classes = greylist
greylist = check_policy_service unix:private/greylist
header_checks = regexp:{ {/^Subject:.*REFUSE-AFTER-DATA/ REJECT content refused} }

# no copies of refused sessions to the postmaster: they would be counted as mail
notify_classes =
# 25 MB messages pass, RFC 1870's SIZE is announced
message_size_limit = 41943040
mailbox_size_limit = 0
virtual_mailbox_limit = 0

# the tests are one impatient client with many connections
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
default_process_limit = 100
# what is deferred stays long enough to be looked at
minimal_backoff_time = 5s
maximal_backoff_time = 30s
queue_run_delay = 5s
CONF

auth_only="-o smtpd_sasl_auth_enable=yes -o smtpd_client_restrictions=permit_sasl_authenticated,reject"
cat >"$dir/etc/master.cf" <<CONF
127.0.0.1:$SMTP  inet n - n - - smtpd -o smtpd_delay_reject=no
127.0.0.1:$AUTH  inet n - n - - smtpd $auth_only
127.0.0.1:$SUBM  inet n - n - - smtpd $auth_only -o smtpd_tls_security_level=encrypt
127.0.0.1:$SMTPS inet n - n - - smtpd $auth_only -o smtpd_tls_wrappermode=yes
greylist unix - n n - 0 spawn user=nobody argv=/bin/bash $dir/greylist.sh $dir/grey
anvil unix - - n - 1 anvil
bounce unix - - n - 0 bounce
cleanup unix n - n - 0 cleanup
defer unix - - n - 0 bounce
discard unix - - n - - discard
error unix - - n - - error
flush unix n - n 1000? 0 flush
lmtp unix - - n - - lmtp
pickup unix n - n 60 1 pickup
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
qmgr unix n - n 300 1 qmgr
retry unix - - n - - error
rewrite unix - - n - - trivial-rewrite
scache unix - - n - 1 scache
showq unix n - n - - showq
smtp unix - - n - - smtp
tlsmgr unix - - n 1000? 1 tlsmgr
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
CONF

touch "$dir/postfix.log"
postfix -c "$dir/etc" start >"$dir/start.log" 2>&1 || { cat "$dir/start.log" "$dir/postfix.log" >&2; exit 1; }
wait_ports "$dir/postfix.log" "$SMTP" "$AUTH" "$SUBM" "$SMTPS"
tee "$dir/ports" <<PORTS
SMTP=$SMTP
AUTH=$AUTH
SUBM=$SUBM
SMTPS=$SMTPS
CA=$tls/ca.pem
PORTS
