#!/bin/sh
# Sends the call beside this file and prints its transcript; fails if there are no words.
# Usage: call.sh AUDIO_TOPIC FINAL_TOPIC PARTIAL_TOPIC; KAFKA_ variables say where and how.
set -eu
here=$(dirname "$0")
out=$(mktemp -d)
call="helm-test-$(date +%s)"

# Read from before the call is sent, so that only it has to be read.
trunkline tail --call "$call" --until-end --json --final-topic "$2" --partial-topic "$3" > "$out/events" 2> "$out/errors" &
tail=$!
trap 'kill "$tail" 2> /dev/null || :' EXIT
tries=0
until grep -q following "$out/errors"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ] || [ -s "$out/errors" ]; then
        cat "$out/errors"
        echo "the transcripts cannot be read"
        exit 1
    fi
    sleep 1
done

trunkline produce "$here/call.flac" --call-id "$call" --topic "$1"
wait "$tail" || { cat "$out/errors"; exit 1; }
cat "$out/events"
grep -q '"type": *"utterance"' "$out/events" || { echo "the call has ended and no words were heard"; exit 1; }
