#!/bin/sh
# Audits one archive of eventexport with standard tools: sha256sum (or shasum), jq, openssl and gzip. Reads only.
#
#   audit.sh [option ...] FOLDER
#
# FOLDER is the root of one space and scope: it holds _journal, _manifests and date=... Options:
#
#   --public-key FILE      Ed25519 public key (PEM) of the exporter; may be repeated. Every manifest must then be signed
#                          with one of the keys, and every receipt be in a signed manifest or have a signature
#   --head SEQ:SHA256      a manifest that was noted at an earlier audit, and must be in the chain; may be repeated
#   --allow-unsigned       accept what has no signature; signatures that exist are still checked
#   --unsigned-since DAY   accept receipts without a signature from this UTC day on
#   --timestamp-ca FILE    certificates (PEM) of the time-stamp authority: each time stamp must then be signed by one of
#                          them; without, a time stamp is only compared with its document
#   --start DAY, --end DAY the days that must be covered, both included (default: the periods of the manifests and what
#                          follows them, or from the first to the last stored day)
#
# Prints one line for each check: "ok", "FAIL" with the problems below it, or "note". Exit code 0: all checks passed;
# 1: at least one failed; 2: the arguments are wrong; 3: a tool is missing or the folder cannot be read.
#
# docs/auditor.md explains each check.

set -u
LC_ALL=C
export LC_ALL
umask 077

SHOWN=20                  # problems that are printed for each check
RECEIPT_BLOCKS=512        # maximum size of a receipt: 256 KiB
MANIFEST_BLOCKS=32768     # maximum size of a manifest: 16 MiB

stop() { # code, message
  printf 'audit.sh: %s\n' "$2" >&2
  exit "$1"
}

for tool in jq gzip find sort xargs grep sed; do
  command -v "$tool" > /dev/null || stop 3 "$tool is not installed"
done
if command -v sha256sum > /dev/null; then
  sha256() { sha256sum "$@"; }
elif command -v shasum > /dev/null; then
  sha256() { shasum -a 256 "$@"; }
else
  stop 3 'neither sha256sum nor shasum is installed'
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/audit.XXXXXX") || exit 3
trap 'rm -rf "$work"' EXIT
trap 'exit 3' HUP INT TERM
: > "$work/keys"
: > "$work/heads"

is_day() { printf '%s\n' "$1" | grep -Eq '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'; }

folder='' timestamp_ca='' allow_unsigned=false unsigned_since='' start='' end=''
while [ $# -gt 0 ]; do
  case $1 in
    --public-key | --timestamp-ca | --head | --unsigned-since | --start | --end)
      [ $# -ge 2 ] || stop 2 "$1 needs a value" ;;
  esac
  case $1 in
    --public-key)
      [ -f "$2" ] || stop 2 "--public-key: there is no file $2"
      case $2 in /*) key=$2 ;; *) key=$PWD/$2 ;; esac
      printf '%s\n' "$key" >> "$work/keys"
      shift ;;
    --timestamp-ca)
      [ -f "$2" ] || stop 2 "--timestamp-ca: there is no file $2"
      case $2 in /*) timestamp_ca=$2 ;; *) timestamp_ca=$PWD/$2 ;; esac
      shift ;;
    --head)
      printf '%s\n' "$2" | grep -Eq '^[1-9][0-9]{0,7}:[0-9a-fA-F]{64}$' ||
        stop 2 "--head: $2 is not SEQ:SHA256, such as 14:9f86..."
      printf '%s\n' "$2" | tr ABCDEF abcdef >> "$work/heads"
      shift ;;
    --unsigned-since) is_day "$2" || stop 2 "--unsigned-since: $2 is not a day"; unsigned_since=$2; shift ;;
    --start) is_day "$2" || stop 2 "--start: $2 is not a day"; start=$2; shift ;;
    --end) is_day "$2" || stop 2 "--end: $2 is not a day"; end=$2; shift ;;
    --allow-unsigned) allow_unsigned=true ;;
    -*) stop 2 "$1 is no option; the first lines of this file say which there are" ;;
    *) [ -z "$folder" ] || stop 2 'name one folder'; folder=$1 ;;
  esac
  shift
done
[ -n "$folder" ] || stop 2 'name the folder of the archive that holds _journal and _manifests'
with_key=false
if [ -s "$work/keys" ]; then
  with_key=true
  command -v openssl > /dev/null || stop 3 'openssl is not installed'
  while read -r key; do
    openssl pkey -pubin -in "$key" -noout 2> /dev/null || stop 2 "--public-key: $key is no public key in PEM"
  done < "$work/keys" || exit
elif $allow_unsigned || [ -n "$unsigned_since" ]; then
  stop 2 '--allow-unsigned and --unsigned-since need --public-key'
fi
CDPATH='' cd -- "$folder" 2> /dev/null || stop 3 "cannot enter $folder"
root=$(pwd -P)

# Removes control characters, by which a name or a text of the archive could rewrite the report on a terminal.
printable() { tr -d '\001-\010\013-\037\177'; }

failed=0
report() { # name, summary; problems are the lines of $work/problems
  if [ -s "$work/problems" ]; then
    failed=1
    count=$(wc -l < "$work/problems" | tr -d ' ')
    printf 'FAIL  %s: %s\n' "$1" "$count"
    sed -n "1,${SHOWN}s/^/        /p" "$work/problems" | printable
    [ "$count" -le "$SHOWN" ] || printf '        ... and %s more\n' "$((count - SHOWN))"
  else
    printf 'ok    %s: %s\n' "$1" "$2"
  fi
  : > "$work/problems"
}
note() { printf 'note  %s\n' "$1" | printable; }
problem() { printf '%s\n' "$1" >> "$work/problems"; }
: > "$work/problems"
count() { wc -l < "$1" | tr -d ' '; }

# Files that queries over date=*/events*.json.gz skip: a name in the path begins with . or _ (the folders of documents aside).
hidden() { sed -E 's,^\./(_journal|_manifests|_revisions|_checkpoints)(/|$),./,' | grep -E '/[._][^/]*' ; }

# --- 1. Files -----------------------------------------------------------------------------------------------------------
# Only names that are harmless in a shell go on. Links to folders are not followed; pipes and devices are not read.

find . -name .eventexport-tmp -prune -o -name '*[!A-Za-z0-9._=%~-]*' -prune -print > "$work/odd" ||
  stop 3 "cannot read all of $folder"
find . -name .eventexport-tmp -prune -o -name '*[!A-Za-z0-9._=%~-]*' -prune -o -type f -print > "$work/regular"
find . -name .eventexport-tmp -prune -o -name '*[!A-Za-z0-9._=%~-]*' -prune -o -type l -print > "$work/links"
find . -name .eventexport-tmp -prune -o ! -type f ! -type d ! -type l -print |
  while read -r file; do
    printf '%s\n' "$file" | hidden > /dev/null || problem "$file: a pipe, socket or device"
  done
while read -r file; do
  if [ -f "$file" ]; then
    printf '%s\n' "$file" >> "$work/regular"
  else
    problem "$file: a link to a folder or to nothing"
  fi
done < "$work/links"
grep -E '(^|/)date=' "$work/odd" | { hidden > "$work/hidden.odd"; grep -vxF -f "$work/hidden.odd" "$work/odd"; } |
  grep -E '(^|/)date=' | while read -r file; do problem "$file: queries may read it as events"; done
sort -o "$work/files" "$work/regular"
report files "$(count "$work/files") files, no link to a folder, no device"

select_files() { grep -E "$1" "$work/files" | sed 's,^\./,,'; }
select_files '^\./_journal/[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2})?(\.r[1-9][0-9]*)?\.receipt\.json$' > "$work/receipts"
select_files '^\./_journal/[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2})?(\.r[1-9][0-9]*)?\.receipt\.json\.sig$' > "$work/receipt.sigs"
select_files '^\./_manifests/[0-9]{8}\.json$' > "$work/manifests"
select_files '^\./_checkpoints/[0-9]{4}-[0-9]{2}-[0-9]{2}\.json$' > "$work/checkpoints"
select_files '^\./_manifests/[0-9]{8}\.json\.sig$' > "$work/manifest.sigs"
select_files '^\./(_manifests/[0-9]{8}|_checkpoints/[0-9]{4}-[0-9]{2}-[0-9]{2})\.json\.tsr$' > "$work/timestamps"

# --- 2. Documents -------------------------------------------------------------------------------------------------------
# Each receipt and manifest is one JSON document of a known schema, not larger than the exporter writes.

sums() { # prints a line {"sha256", "file"} for each file name on standard input
  xargs sh -c 'command -v sha256sum > /dev/null && exec sha256sum "$@"; exec shasum -a 256 "$@"' sh |
    sed -E 's/^([0-9a-f]{64}) [ *](.*)$/{"sha256":"\1","file":"\2"}/'
}
read_documents() { # list, schema, blocks, output: lines {file, sha256, doc}
  : > "$4"
  : > "$work/good"
  while read -r file; do
    if [ -n "$(find "$file" -size +"$3" 2> /dev/null)" ]; then
      problem "$file: too large"
    else
      printf '%s\n' "$file" >> "$work/good"
    fi
  done < "$1"
  [ -s "$work/good" ] || return
  join='($sums | map({key: .file, value: .sha256}) | from_entries) as $of
    | inputs | if .doc | type == "object" and (.schema | tostring | test($schema)) then {file, sha256: $of[.file], doc} else error("no") end'
  sums < "$work/good" > "$work/sums"
  if xargs jq -c '{file: input_filename, doc: .}' < "$work/good" > "$work/docs" 2> /dev/null &&
    [ "$(count "$work/docs")" = "$(count "$work/good")" ] &&
    jq -n -c --slurpfile sums "$work/sums" --arg schema "$2" "$join" "$work/docs" > "$4" 2> /dev/null; then
    return
  fi
  # One of them is damaged: one file at a time, which is slow.
  : > "$work/docs"
  while read -r file; do
    if jq -n -c --arg schema "$2" '[inputs] | if length == 1 and (.[0] | type == "object" and (.schema | tostring | test($schema)))
        then {file: input_filename, doc: .[0]} else error("no") end' "$file" >> "$work/docs" 2> /dev/null; then :
    else
      problem "$file: is not one JSON document of a known schema"
    fi
  done < "$work/good"
  jq -n -c --slurpfile sums "$work/sums" --arg schema "$2" "$join" "$work/docs" > "$4"
}
read_documents "$work/receipts" '^eventexport\.io/receipt/v1$' "$RECEIPT_BLOCKS" "$work/receipts.jsonl"
read_documents "$work/manifests" '^eventexport\.io/manifest/v[12]$' "$MANIFEST_BLOCKS" "$work/manifests.jsonl"
read_documents "$work/checkpoints" '^eventexport\.io/checkpoint/v1$' "$RECEIPT_BLOCKS" "$work/checkpoints.jsonl"
report documents "$(count "$work/receipts") receipts, $(count "$work/manifests") manifests and \
$(count "$work/checkpoints") checkpoints can be read"

# The checks of documents are one jq program: each adds an expression whose results are its problems.
cat > "$work/program" <<'END'
def pad: tostring | "00000000"[length:] + .;
def latest: if .reportedAfter != null then .reportedAfter else .reportedBefore end;
def compared($latest): if $latest == null then "Unknown" elif .events < $latest then "Short"
  elif .events > $latest then "Over" else "Matched" end;
def window: .file | ltrimstr("_journal/") | split(".")[0];
# Number of the revision: 0 for the first receipt of a window.
def number: .file | split(".")[1] | if startswith("r") and . != "receipt" then .[1:] | tonumber else 0 end;
def receipt_key($number): "_journal/\(.)\(if $number > 0 then ".r\($number)" else "" end).receipt.json";
# The entry of a window as the revision that counts states it (the newest one whose body lacks no stored events), and all
# receipts of an entry.
def counts: .missingEvents == null;
def current: . as $entry | [(.revisions // [])[] | select(counts)][-1] // $entry;
def all_receipts: .receipt, ((.revisions // [])[] | .receipt);
def object_key: if length == 10 then "date=\(.)/events.json.gz" else "date=\(.[:10])/events-h\(.[11:]).json.gz" end;
def seconds: . + "T00:00:00Z" | fromdate;
def day: strftime("%Y-%m-%d");
def is_count: type == "number" and . >= 0 and . < 9007199254740992 and . == floor;
def lines: split("\n") | map(select(. != ""));
def is_of($space; $scope): $space == "" or ((.space | @uri) == ($space | if .[:3] == "%2E" then "." + .[3:] else . end)
  and (.scope | ascii_downcase) == $scope);
# True if a period contains a window.
def covers($window): .start <= $window[:10] and $window[:10] <= .end
  and (.hour == null or (($window | length) == 13 and ($window[11:] | tonumber) == .hour));
# The receipts that count: for each window, the entry of the newest manifest about its day.
def ledger: reduce ($manifests | reverse | .[]) as $one ({entries: {}, later: []};
  .later as $later
  | reduce ($one.doc.windows[] | select(.window as $w | any($later[]; covers($w)) | not)) as $entry (.;
      if .entries[$entry.window] then . else .entries[$entry.window] = ($entry + {manifest: $one.file}) end)
  | .later += [$one.doc.period]) | .entries;
def entries: ., ((.revisions // [])[] + {manifest: .manifest, window: .window});
([$receipts[] | {key: .file, value: .}] | from_entries) as $by_file
| ($signed | lines | map({key: ., value: true}) | from_entries) as $is_signed
# The digest in a signed manifest attests the one before it.
| (reduce ($manifests | reverse | .[]) as $one ({all: [], by: null};
    if $is_signed[$one.file] or (.by != null and .by.sha256 == $one.sha256) then .all += [$one] | .by = $one.doc.previous
    else .by = null end) | .all) as $attesting
| ([$attesting[].doc.windows[] | all_receipts | {key: "\(.sha256) \(.key)", value: true}] | from_entries) as $listed
| ([$receipts[] | {window: window, by: (if $listed["\(.sha256) \(.file)"] then "manifest"
    elif $is_signed[.file] then "receipt" else "nothing" end)}]
  # A window is attested as its weakest receipt is.
  | group_by(.window) | map(([.[].by] | unique) as $by | {window: .[0].window, by: ($by - ["manifest"] | if . == ["nothing", "receipt"]
      then "nothing" else (.[0] // "manifest") end)})) as $attested
| [$receipts[] | select(number == 0)] as $first
# The receipt of the revision of each window that counts.
| ($receipts | group_by(window) | map([.[] | select(.doc | counts)] | max_by(number) | select(. != null))) as $newest
| (["note", "\($first | length) windows, \([$newest[].doc.events] | add // 0) events"],
   ([$manifests[].doc.acceptedGaps[] | "accepted gap \(.start) to \(.end): \(.reason)"] | unique | .[] | ["note", .]),
   ["note", "head to write down: " + ($manifests[-1] | if . then "\(.doc.sequence):\(.sha256)" else "none" end)],
   ["attested", "attested: \([$attested[] | select(.by == "manifest")] | length) windows by signed manifests, "
     + "\([$attested[] | select(.by == "receipt")] | length) by signed receipts, "
     + "\([$attested[] | select(.by == "nothing")] | length) by receipts alone"]
END
check() { # name, program
  printf ', (try (%s) catch "the check ended with an error: \\(.)" | ["%s", .])\n' "$2" "$1" >> "$work/program"
}
show() { # name, summary: reports the problems that the program found
  sed -n "s/^$1	//p" "$work/found" >> "$work/problems"
  report "$1" "$2"
}

# --- 3. Signatures ------------------------------------------------------------------------------------------------------

verify_signature() { # document, signature
  while read -r key; do
    openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$1" -sigfile "$2" > /dev/null 2>&1 && return 0
  done < "$work/keys"
  return 1
}
check_signature() { # document, signature: adds the document to those that are signed
  if verify_signature "$1" "$2"; then
    printf '%s\n' "$1" >> "$work/signed"
  else
    problem "$1: the signature is not of a given key"
  fi
}
: > "$work/signed"
if $with_key; then
  while read -r manifest; do
    if [ -f "$manifest.sig" ]; then
      check_signature "$manifest" "$manifest.sig"
    else
      $allow_unsigned || problem "$manifest: has no signature"
    fi
  done < "$work/manifests"
  report 'signatures of manifests' "$(count "$work/signed") of $(count "$work/manifests") are signed"
  while read -r checkpoint; do
    if [ -f "$checkpoint.sig" ]; then
      check_signature "$checkpoint" "$checkpoint.sig"
    else
      $allow_unsigned || problem "$checkpoint: has no signature"
    fi
  done < "$work/checkpoints"
  report 'signatures of checkpoints' "each of $(count "$work/checkpoints") is signed, or may be unsigned"
fi
while read -r sig; do
  if [ ! -f "${sig%.sig}" ]; then
    problem "${sig%.sig}: is missing, its signature is there"
  elif $with_key; then
    check_signature "${sig%.sig}" "$sig"
  fi
done < "$work/receipt.sigs"
report 'signatures of receipts' "$(if $with_key; then
  echo "$(count "$work/receipt.sigs") of $(count "$work/receipts") have one"
else
  echo 'none was checked, since no --public-key was given: who can write here can have written all of it'
fi)"

# A time stamp (RFC 3161) holds the digest of the document beside it.
stamped_digest() { # time stamp
  openssl ts -reply -in "$1" -text 2> /dev/null | sed -n '/^Hash Algorithm: sha256/,/^Serial/s/^ *00[01]0 - \(.\{47\}\).*/\1/p' |
    tr -d ' \n-'
}
if [ -s "$work/timestamps" ]; then
  if command -v openssl > /dev/null; then
    while read -r stamp; do
      document=${stamp%.tsr}
      if [ ! -f "$document" ]; then
        problem "$document: is missing, its time stamp is there"
      elif [ -n "$timestamp_ca" ]; then
        openssl ts -verify -data "$document" -in "$stamp" -CAfile "$timestamp_ca" > /dev/null 2>&1 ||
          problem "$stamp: is no time stamp of its document by an authority of $timestamp_ca"
      else
        [ "$(stamped_digest "$stamp")" = "$(sha256 "$document" | cut -c 1-64)" ] ||
          problem "$stamp: is no time stamp of its document"
      fi
    done < "$work/timestamps"
    report 'time stamps' "$(count "$work/timestamps"), each of the document beside it$(
      [ -n "$timestamp_ca" ] || echo '; who signed them was not checked, since no --timestamp-ca was given')"
  else
    note 'time stamps were not checked: openssl is not installed'
  fi
elif [ -n "$timestamp_ca" ]; then
  problem 'there is none, and --timestamp-ca is given'
  report 'time stamps' ''
fi

# --- 4. Receipts and manifests ------------------------------------------------------------------------------------------

check chain '
  foreach ($manifests[], null) as $one ({next: 1, previous: null, out: []};
    if $one == null then .out = [] else
      ("_manifests/\(.next | pad).json") as $key
      | .out = (if $one.file != $key then ["\($key): is missing"]
          elif $one.doc.sequence != .next then ["\($key): has the number \($one.doc.sequence)"]
          elif ($one.doc.previous | if . then {key, sha256} else . end) != .previous then ["\($key): the manifest before it is another one"]
          else [] end)
      | .next = ($one.file | ltrimstr("_manifests/") | rtrimstr(".json") | tonumber) + 1
      | .previous = {key: $one.file, sha256: $one.sha256}
    end; .out[])'
check head '
  $heads | lines[] | . as $head | split(":") as [$sequence, $sha256]
  | select(any($manifests[]; .doc.sequence == ($sequence | tonumber) and .sha256 == $sha256) | not)
  | "\($head): the chain has no such manifest"'
check checkpoints '
  ([$checkpoints[] | {key: .file, value: .}] | from_entries) as $by_day
  | [$manifests[].doc.period] as $periods
  | $checkpoints[] | .file as $file | .doc
  | (if .previous != null and $by_day[.previous.key].sha256 != .previous.sha256
     then "\($file): the checkpoint before it, \(.previous.key), is missing or another one" else empty end),
    (.head | select(. != null) | . as $head
     | select(any($manifests[]; .doc.sequence == $head.sequence and .sha256 == $head.sha256) | not)
     | "\($file): manifest \(.sequence), which it names, is missing or another one"),
    (if is_of($space; $scope) | not then "\($file): is about another space or scope" else empty end),
    (.windows[] as $window | select(any($periods[]; covers($window)) | not)
     | select($by_file[$window | receipt_key(0)] == null) | "\($window | receipt_key(0)): is missing, \($file) counted it")'
check attestation '
  $attested[] | select(.by == "nothing" and $with_key and ($allow | not) and ($since == "" or .window[:10] < $since))
  | "\(.window): neither a signed manifest nor a signed receipt"'
# Days, sums and gaps follow from the windows of each manifest.
check statements '
  $manifests[] | .file as $file | .doc as $manifest
  | def of($day): [$manifest.windows[] | select(.window[:10] == $day)];
    def hours: map(if (.window | length) == 10 then 24 else 1 end) | add // 0;
    def split: $manifest.period.hour == null and any(.[]; (.window | length) == 13);
    ($manifest.windows | group_by(.window[:10]) | map({key: .[0].window[:10], value: .}) | from_entries) as $of
  | if ($manifest.period.end | seconds) - ($manifest.period.start | seconds) > 366 * 86400 then "\($file): has a period of more than 366 days"
    else (if ([$manifest.days[].date | seconds] == [range($manifest.period.start | seconds; ($manifest.period.end | seconds) + 1; 86400)])
     then empty else "\($file): its days are not those of its period" end),
    (if ($manifest | is_of($space; $scope) | not) then "\($file): is of another space or scope" else empty end),
    ([$manifest.windows[].window] as $windows
     | if $windows == ($windows | unique) and all($windows[]; . as $w | $manifest.period | .start <= $w[:10] and $w[:10] <= .end)
       then empty else "\($file): its windows are out of order, doubled or outside of its period" end),
    ($manifest.windows[] | . as $entry
     | if [$entry | all_receipts | .key] != [range(($entry.revisions // [] | length) + 1) as $n | $entry.window | receipt_key($n)] then "\($file): \($entry.window) names another receipt"
       elif $entry.object == null and ($entry.events > 0 or $entry.verdict != "Empty") then "\($file): \($entry.window) has events and no object"
       elif $entry.object != null and $entry.object.key != ($entry.window | object_key) then "\($file): \($entry.window) names another object"
       else empty end),
    ($manifest.days[] | . as $day | ($of[$day.date] // []) as $windows
     | ($windows | map(.window | length) | unique | length) as $kinds
     | select(($kinds < 2
        and ([($windows | hours), .wanted] | min) == .hours
        and .wanted == (if $manifest.period.hour == null then 24 else 1 end)
        and ($windows | map(current.events) | add // 0) == .events
        and (($windows | split) or .reported == ($windows[0] | current | latest))
        and (if .statement == "AcceptedGap"
             then any($manifest.acceptedGaps[]; .start <= $day.date and $day.date <= .end)
                  and (.hours < .wanted or $manifest.period.hour != null or ($windows | split) and compared(.reported) == "Short")
             elif .hours < .wanted or ($windows | split) and compared(.reported) == "Short" then false
             elif ($windows | split) and any($windows[]; current.verdict != "Empty") then .statement == compared(.reported)
             else .statement == ($windows[0] | current.verdict) end)) | not)
     | "\($file): the statement about \($day.date) does not follow from its windows"),
    (if $manifest.totals == {
        windows: ($manifest.windows | length),
        objects: [$manifest.windows[].object | select(.)] | length,
        events: ([$manifest.windows[] | current.events] | add // 0),
        reported: ([$manifest.days[].reported] | add // 0),
        daysWithoutCount: [$manifest.days[] | select(.reported == null)] | length,
        bytes: ([$manifest.windows[].object | select(.) | .bytes] | add // 0),
        decompressedBytes: ([$manifest.windows[].decompressedBytes] | add // 0)} then empty else "\($file): the sums are wrong" end) end'
# Each receipt is the one that the newest manifest about its window names, and says the same.
check 'manifests and receipts' '
  def short: if . then {key, bytes, sha256: (.sha256 | ascii_downcase)} else null end;
  def facts: {window, events, missingEvents, supplement: (.supplement | short), reportedBefore, reportedAfter, verdict, uncounted,
    object: (.object | short)};
  (ledger[] | entries | $by_file[.receipt.key] as $receipt
   | if $receipt == null then "\(.receipt.key): is missing or damaged, \(.manifest) names it"
     elif $receipt.sha256 != .receipt.sha256 then "\(.receipt.key): was changed after \(.manifest) was written" else empty end),
  ($manifests[] | .file as $file | .doc.source as $source | .doc.windows[] | entries | . as $entry | $by_file[.receipt.key] as $receipt
   | select($receipt != null and $receipt.sha256 == .receipt.sha256)
   | select(($receipt.doc | facts) != ($entry | facts) or $receipt.doc.source != $source
       or ($receipt.doc.object | if . then .decompressedBytes else 0 end) != $entry.decompressedBytes)
   | "\($file): states something else about \($entry.window) than its receipt"),
  ($manifests[] | .file as $file | .doc.days[] | . as $day
   | [$by_file | .["_journal/\($day.date)T\(range(24) | tostring | "00"[length:] + .).receipt.json"] | select(.) | .doc.reportedOfDay // 0]
   | select(length == 24 and $by_file["_journal/\($day.date).receipt.json"] == null and ($day.reported // 0) < max)
   | "\($file): states fewer reported events of \($day.date) than the receipts of its hours")'
check receipts '
  $receipts[] | .file as $file | window as $window | number as $number
  | $by_file[$window | receipt_key($number - 1)].doc as $before
  | [range($number) as $n | $by_file[$window | receipt_key($n)].doc | select(. != null and counts)][-1] as $base | .doc
  | def own_key: if $number > 0 then "_revisions/\($window)/\($number)/events.json.gz" else $window | object_key end;
    def supplement_key: $window | object_key | rtrimstr(".json.gz") + "-r\($number).json.gz";
    .
  | def exact: {start: $window[:10], "end": $window[:10], hour: (if ($window | length) == 13 then $window[11:] | tonumber else null end)};
    def range: {start, "end": .end, hour};
    compared(latest) as $compared
  | if [.events, ((.object, .supplement) // empty | .bytes, .decompressedBytes), (.supplementEvents, .missingEvents,
       .reportedBefore, .reportedAfter, .reportedOfDay) // 0] | all(is_count) | not then "\($file): has numbers that cannot be"
    elif .window != $window or (.asked | range) != exact
       or (.answered != null and (.answered | range | .hour //= exact.hour) != exact) then "\($file): is about another window"
    elif is_of($space; $scope) | not then "\($file): is about another space or scope"
    elif .object == null and (.events > 0 or .verdict != "Empty" or .uncounted != null) then "\($file): has events and no object"
    elif .revision != $number or ($number > 0 and $before == null) then "\($file): the receipt of the revision before it is missing"
    elif $number > 0 and (.source != $before.source or (counts and .events != $base.events + (.supplementEvents // 0))) then
       "\($file): does not follow from the revision before it"
    elif (counts | not) and ($number == 0 or .missingEvents < 1 or .missingEvents > $base.events or .supplement != null
       or .object.key != own_key) then "\($file): has missing events that cannot be"
    elif .supplement != null and ($number == 0 or .supplement.key != supplement_key or (.supplement.sha256 | test("^[0-9a-fA-F]{64}$") | not))
       then "\($file): names another supplement"
    elif .object != null and ((.object.key != own_key and ($number == 0 or .object.sha256 != $base.object.sha256)) or (.object.sha256 | test("^[0-9a-fA-F]{64}$") | not))
       then "\($file): names another object"
    elif .uncounted != null and .verdict != "Unknown" then "\($file): has a verdict about events that were not counted"
    elif .uncounted != null and (.events == 0 or .events < (latest // 0)) then "\($file): too few of its events could be counted"
    elif .uncounted == null and $compared == "Short" then "\($file): has fewer events than the service reported"
    elif .uncounted != null or .object == null or .verdict == $compared or (.verdict == "Empty" and .events == 0)
       or (.verdict == "Matched" and $compared == "Over" and .reportedBefore != null and .events <= .reportedBefore) then empty
    else "\($file): has a verdict that does not follow from its counts" end'
check 'hours of days' '
  [$newest[] | {window: window, doc}] | group_by(.window[:10])[]
  | select(all(.[]; (.window | length) == 13) and length == 24)
  | (map(.doc.events) | add) as $events | (map(.doc.reportedOfDay // 0) | max) as $reported
  | select($events < $reported) | "\(.[0].window[:10]): \($events) events in its hours, \($reported) reported"'
check days '
  def hours: if length == 13 then [.[11:] | tonumber] else [range(24)] end;
  (reduce ($receipts[] | window) as $w ({}; .[$w[:10]] += ($w | hours))) as $stored
  | ($manifests | map(.doc.period) | map(.hour) | unique | if length == 1 then .[0] else null end) as $hour
  | (if $hour == null then [range(24)] else [$hour] end) as $all
  | [$manifests[].doc.period | select((.end | seconds) - (.start | seconds) <= 366 * 86400)] as $periods
  | (reduce $manifests[].doc as $one ({}; reduce $one.days[] as $day (.;
      .[$day.date] = (if $day.statement == "AcceptedGap" then true else null end)))) as $accepted
  | ($stored | keys) as $days
  | ([$days[] | . as $day | select(any($periods[]; .start <= $day and $day <= .end) | not)]) as $open
  | ([$periods[].end | select(. < ($open[0] // ""))] | max) as $sealed
  | (if ($from + $to) != "" then
       ((if $from != "" then $from else ([$days[0], $periods[].start, $to] | map(select(. // "" != "")) | min) end)) as $first
       | ((if $to != "" then $to else ([$days[-1], $periods[].end, $from] | map(select(. // "" != "")) | max) end)) as $last
       | [range($first | seconds; ($last | seconds) + 1; 86400) | day | {day: ., hours: $all}]
     else
       ([$periods[] | . as $period | range(.start | seconds; (.end | seconds) + 1; 86400) | day
          | {day: ., hours: (if $period.hour == null then [range(24)] else [$period.hour] end)}] | unique)
       + (if ($open | length) == 0 then [] else
           (if $sealed then ($sealed | seconds) + 86400 else ($open[0] | seconds) end) as $first
           | ([$open[] | $stored[.] | unique] | unique) as $shapes
           | ($shapes | length == 1 and (.[0] | length) == 1) as $one_hour
           | [range($first; ($open[-1] | seconds) + 1; 86400) | day | . as $day
              | {day: ., hours: (if $one_hour then $shapes[0] else
                  [range(24)
                   | select(($day == $open[0] and $sealed == null and . < ($stored[$day] | min)) | not)
                   | select(($day == $open[-1] and . > ($stored[$day] | max)) | not)] end)}]
         end)
     end)[]
  | .day as $day | select($accepted[$day] | not)
  | (.hours - ($stored[$day] // [])) as $missing
  | select($missing | length > 0)
  | if ($missing | length) == 24 then "\($day): is missing" else "\($day): hours \($missing | map(tostring) | join(", ")) are missing" end'
echo ') | @tsv' >> "$work/program"

space=$(printf '%s\n' "$root" | sed -nE 's,.*/space=([^/]*)/scope=[^/]*$,\1,p')
scope=$(printf '%s\n' "$root" | sed -nE 's,.*/space=[^/]*/scope=([^/]*)$,\1,p')
jq -n -r -f "$work/program" --slurpfile receipts "$work/receipts.jsonl" --slurpfile manifests "$work/manifests.jsonl" \
  --slurpfile checkpoints "$work/checkpoints.jsonl" --rawfile signed "$work/signed" --rawfile heads "$work/heads" --arg space "$space" --arg scope "$scope" \
  --argjson with_key "$with_key" --argjson allow "$allow_unsigned" --arg since "$unsigned_since" \
  --arg from "$start" --arg to "$end" > "$work/found" 2> "$work/errors" ||
  stop 3 "the checks of documents ended with an error: $(sed -n 1p "$work/errors")"

for sig in $(cat "$work/manifest.sigs"); do
  [ -f "${sig%.sig}" ] || problem "${sig%.sig}: is missing, its signature is there"
done
show chain "$(count "$work/manifests") manifests, each names the one before it"
show head "$(if [ -s "$work/heads" ]; then echo 'the noted manifests are in the chain'; else echo 'none was given'; fi)"
if $with_key; then
  show attestation 'every receipt is in a signed manifest or signed, or may be unsigned'
  note "$(sed -n 's/^attested	//p' "$work/found")"
fi
for manifest in $(sed -E 's/^\{"file":"([^"]*)".*/\1/' "$work/manifests.jsonl"); do
  stated=$(jq -r '.root.digest, (.windows[] | .receipt, ((.revisions // [])[] | .receipt) | "\(.sha256)  \(.key)")' "$manifest")
  digest=$(printf '%s\n' "$stated" | sed 1d | sha256 | cut -c 1-64)
  [ "$digest" = "$(printf '%s\n' "$stated" | sed -n 1p)" ] || problem "$manifest: another root digest"
done
report 'root digests' 'each is that of the receipts that the manifest lists'
# A manifest states the receipts of its period, and supersedes the checkpoint.
jq -r --slurpfile manifests "$work/manifests.jsonl" '.file as $file | .doc | . as $doc
  | select(any($manifests[].doc.period; . as $period | any($doc.windows[]; $period.start <= .[:10] and .[:10] <= $period.end)) | not)
  | select(.windows | all(test("^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2})?$"))) | "\($file) \(.root.digest) \(.windows | join(" "))"' \
  "$work/checkpoints.jsonl" > "$work/counted"
while read -r checkpoint stated windows; do
  for window in $windows; do printf '_journal/%s.receipt.json\n' "$window"; done > "$work/listed"
  # Those that are missing were reported.
  xargs ls < "$work/listed" > /dev/null 2>&1 || continue
  digest=$(xargs sh -c 'command -v sha256sum > /dev/null && exec sha256sum "$@"; exec shasum -a 256 "$@"' sh < "$work/listed" |
    sha256 | cut -c 1-64)
  [ "$digest" = "$stated" ] || problem "$checkpoint: counted other receipts"
done < "$work/counted"
show checkpoints "$(count "$work/checkpoints") checkpoints, each names what is there"
show statements 'days, sums and gaps follow from the windows of each manifest'
show 'manifests and receipts' 'each receipt is the one that the newest manifest about its window names'
show receipts 'each is about its window, free of contradictions, with at least as many events as reported last'
show 'hours of days' 'of days that are stored by the hour, the hours have as many events as the service reported of the day'

# --- 5. Objects ---------------------------------------------------------------------------------------------------------
# Sizes are compared first, so that no more is read than the receipts state.

jq -r '.doc | . as $receipt | ({object, events}, {object: .supplement, events: (.supplementEvents // 0)})
  | .events as $events | .object | select(type == "object")
  | select([$events, .bytes, .decompressedBytes] | all(type == "number" and . >= 0 and . < 9007199254740992 and . == floor))
  | select(.sha256 | type == "string" and test("^[0-9a-fA-F]{64}$"))
  | select(.key | type == "string" and test("^(date=[0-9-]{10}/events(-h[0-9]{2})?(-r[0-9]+)?|_revisions/[0-9T-]+/[0-9]+/events)\\.json\\.gz$"))
  | "\(.bytes) \(.sha256 | ascii_downcase) \(.key) \($events) \(.decompressedBytes) \($receipt.uncounted != null)"' \
  "$work/receipts.jsonl" | sort -u > "$work/objects" || problem 'the receipts describe objects that cannot be'
: > "$work/sized"
while read -r bytes sha256 key facts; do
  if ! grep -qxF "./$key" "$work/files"; then
    problem "$key: is missing"
  elif [ "$(wc -c < "$key" | tr -d ' ')" != "$bytes" ]; then
    problem "$key: has another size than its receipt states"
  else
    printf '{"sha256":"%s","file":"%s"}\n' "$sha256" "$key" >> "$work/sized"
  fi
done < "$work/objects"
: > "$work/actual"
[ ! -s "$work/sized" ] || sed -E 's/.*"file":"(.*)"\}/\1/' "$work/sized" | sums | sort > "$work/actual"
sort "$work/sized" | comm -23 - "$work/actual" | sed -E 's/.*"file":"(.*)"\}/\1/' |
  while read -r key; do problem "$key: has other bytes than were stored"; done
sort "$work/sized" | comm -12 - "$work/actual" | sed -E 's/.*"file":"(.*)"\}/\1/' > "$work/intact"
report objects "$(count "$work/intact") of $(count "$work/objects") have the size and digest that their receipts state"

while read -r bytes sha256 key events decompressed uncounted; do
  grep -qxF "$key" "$work/intact" || continue
  # One byte more than stated is decompressed at most.
  found=$(gzip -dc -- "$key" 2> /dev/null | head -c "$((decompressed + 1))" | wc -c | tr -d ' ')
  if [ "$found" != "$decompressed" ]; then
    problem "$key: does not decompress to the $decompressed bytes that its receipt states"
  elif ! gzip -t -- "$key" 2> /dev/null; then
    problem "$key: is not a complete gzip"
  elif [ "$uncounted" = false ] && [ "$(gzip -dc -- "$key" | grep -c '^{.*}$')" != "$events" ]; then
    # Not one event on each line.
    found=$(gzip -dc -- "$key" | tr -d '\000\036' |
      jq -n 'reduce (inputs | if type == "array" then .[] else . end | objects) as $event (0; . + 1)' 2> /dev/null)
    [ "$found" = "$events" ] || problem "$key: has ${found:-other} events, its receipt states $events"
  fi
done < "$work/objects"
report contents 'each object is complete gzip, with the bytes and events that its receipt states'

# --- 6. Files that no receipt names, and days without a receipt ---------------------------------------------------------

cut -d ' ' -f 3 "$work/objects" | sed 's,^,./,' | sort > "$work/named"
grep -E '^\./date=|^\./_revisions/|/date=[^/]*/events[^/]*\.json\.gz$' "$work/files" | sort | comm -23 - "$work/named" > "$work/extra"
hidden < "$work/extra" > "$work/skipped"
comm -23 "$work/extra" "$work/skipped" |
  while read -r file; do problem "$file: no receipt names it, and queries read it as events"; done
report 'other files' 'no file without a receipt is where queries look for events'
if [ -s "$work/skipped" ] || [ -s "$work/odd" ]; then
  note "$(cat "$work/skipped" "$work/odd" | wc -l | tr -d ' ') files with other names, which queries skip:"
  cat "$work/skipped" "$work/odd" | sed -n "1,${SHOWN}s/^/        /p" | printable
fi
[ -s "$work/receipts.jsonl" ] || problem 'there is no receipt: nothing is proved'
show days 'every wanted hour is covered, or an accepted gap'

sed -n 's/^note	//p' "$work/found" | while read -r line; do note "$line"; done
exit "$failed"
