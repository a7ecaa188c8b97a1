#!/bin/sh
# Sends the call beside this file and prints its transcript; fails if there are no words.
# Usage: call.sh AUDIO_TOPIC FINAL_TOPIC PARTIAL_TOPIC SECONDS; KAFKA_ variables say where and how.
set -eu
here=$(dirname "$0")
out=$(mktemp -d)
call="helm-test-$(date +%s)"

# Read from before the call is sent, so that only it has to be read.
timeout "$4" trunkline tail --call "$call" --until-end --json --final-topic "$2" --partial-topic "$3" \
    > "$out/events" 2> "$out/errors" &
tail=$!
trap 'kill "$tail" 2> /dev/null || :' EXIT
until grep -q following "$out/errors"; do
    if ! kill -0 "$tail" 2> /dev/null; then
        cat "$out/errors"
        echo "the transcripts cannot be read"
        exit 1
    fi
    sleep 1
done

trunkline produce "$here/call.flac" --call-id "$call" --topic "$1"
code=0
wait "$tail" || code=$?
cat "$out/events"
[ "$code" -ne 124 ] || { echo "the call was not heard to its end in $4 s: is a worker ready?"; exit 1; }
[ "$code" -eq 0 ] || { cat "$out/errors"; exit 1; }
grep -q '"type": *"utterance"' "$out/events" || { echo "the call has ended and no words were heard"; exit 1; }
