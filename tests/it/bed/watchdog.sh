# Runs the programs of one test bed and ends them when whoever started it is gone.
#
# Usage: sh watchdog.sh FOLDER [keep]. Each line of standard input is `start NAME`, which runs
# FOLDER/NAME.sh, or `stop NAME`; each is answered by one line. The end of standard input is the
# end of the process that holds the pipe's other end, be it by exit, panic or kill -9.
#
# Programs are killed, not asked: their data are thrown away, and an API server that has lost its
# etcd ignores SIGTERM for a minute. The newest goes first, as it needs the older ones.

folder=$1
keep=${2:-}
running=''

# The programs run in a shell of their own each, which notes how they ended: `kill -0` cannot tell
# an ended child from a living one before someone has waited for it.
start() {
	rm -f "$folder/$1.pid" "$folder/$1.exit"
	{
		sh "$folder/$1.sh" </dev/null >>"$folder/$1.log" 2>&1 &
		echo "$!" >"$folder/$1.pid"
		wait "$!"
		echo "$?" >"$folder/$1.exit"
	} &
	until [ -s "$folder/$1.pid" ]; do sleep 0.01; done
	running="$1 $running"
}

stop() {
	[ -s "$folder/$1.exit" ] || kill -KILL "$(cat "$folder/$1.pid")" 2>/dev/null
	until [ -s "$folder/$1.exit" ]; do sleep 0.01; done
	rest=''
	for name in $running; do
		[ "$name" = "$1" ] || rest="$rest $name"
	done
	running=$rest
}

finish() {
	for name in $running; do stop "$name"; done
	# What a program did that does not end with it, it undoes by this script.
	[ ! -f "$folder/cleanup.sh" ] || sh "$folder/cleanup.sh"
	[ "$keep" = keep ] || rm -rf "$folder"
}

# An answer to a dead process must not end the watchdog before it has cleaned up, and neither
# must a terminal that closes.
trap '' PIPE HUP INT
trap 'exit 1' TERM
trap finish EXIT

while read -r verb name; do
	case $verb in
	start)
		start "$name"
		echo "started $name $(cat "$folder/$name.pid")"
		;;
	stop)
		stop "$name"
		echo "stopped $name"
		;;
	esac
done
