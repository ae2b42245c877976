#!/bin/bash
# greylist.sh DIR: a greylisting policy server for Postfix (its SMTPD_POLICY protocol on standard input and output, started by
# spawn(8)). The first attempt of a (client, sender, recipient) is refused for now, each later one is accepted.
dir=$1
while :; do
  client='' sender='' recipient=''
  while :; do
    IFS= read -r -n 2048 line || exit 0
    case $line in
    '') break ;;
    client_address=*) client=${line#*=} ;;
    sender=*) sender=${line#*=} ;;
    recipient=*) recipient=${line#*=} ;;
    esac
  done
  key=$(printf '%s\n' "$client" "$sender" "$recipient" | sha256sum | cut -c1-40)
  # mkdir is atomic: of two first attempts at the same moment only one is the first
  if mkdir "$dir/$key" 2>/dev/null; then
    printf 'action=451 4.7.1 greylisted, try again\n\n'
  else
    printf 'action=DUNNO\n\n'
  fi
done
