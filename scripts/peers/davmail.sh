#!/bin/bash
# davmail.sh start DIR EWS_URL | stop DIR: DavMail, a client of EWS that is not ours, which shows a mailbox as POP3 and IMAP and sends what it gets by SMTP.
# Needs the Debian package davmail-server (Java). Exit code 77 = cannot be done on this machine. Ports: DAVMAIL_POP3, DAVMAIL_IMAP and DAVMAIL_SMTP in the environment,
# or free ones; printed, and kept in DIR/ports. Users log in with their names and passwords of EWS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
. "$here/common.sh"
verb=${1:?usage: davmail.sh start|stop DIR}
dir=$(peer_dir "${2:?usage: davmail.sh start|stop DIR}")

if [ "$verb" = stop ]; then
  stop_pid_file "$dir/davmail.pid"
  exit 0
fi
url=${3:?usage: davmail.sh start DIR EWS_URL}
command -v davmail-server >/dev/null || { echo "davmail.sh: the package davmail-server is not installed" >&2; exit 77; }

take_ports DAVMAIL_POP3 DAVMAIL_IMAP DAVMAIL_SMTP
cat >"$dir/davmail.properties" <<PROPERTIES
davmail.server=true
davmail.mode=EWS
davmail.url=$url
davmail.bindAddress=127.0.0.1
davmail.allowRemote=false
davmail.popPort=$DAVMAIL_POP3
davmail.imapPort=$DAVMAIL_IMAP
davmail.smtpPort=$DAVMAIL_SMTP
davmail.caldavPort=
davmail.ldapPort=
davmail.ssl.nosecurepop=true
davmail.disableUpdateCheck=true
davmail.enableProxy=false
davmail.useSystemProxies=false
davmail.enableKeepAlive=false
davmail.smtpSaveInSent=true
davmail.logFilePath=$dir/davmail.log
log4j.rootLogger=WARN
log4j.logger.davmail=DEBUG
PROPERTIES
# the wrapper of the package takes no options of Java but by this variable
JAVA_TOOL_OPTIONS="-Xmx256M -Djava.awt.headless=true" davmail-server "$dir/davmail.properties" >"$dir/out.log" 2>&1 </dev/null &
echo $! >"$dir/davmail.pid"
wait_ports "$dir/out.log" "$DAVMAIL_POP3" "$DAVMAIL_SMTP"
tee "$dir/ports" <<PORTS
DAVMAIL_POP3=$DAVMAIL_POP3
DAVMAIL_IMAP=$DAVMAIL_IMAP
DAVMAIL_SMTP=$DAVMAIL_SMTP
PORTS
