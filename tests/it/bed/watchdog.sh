# Runs the programs of one test bed and ends them when the process that started it is gone.
#
# Usage: sh watchdog.sh FOLDER [keep]. Each line of standard input is `start NAME`, which runs
# FOLDER/NAME.sh, or `stop NAME`; the reply is one line. Standard input ends when the process at the
# other end of the pipe ends, by exit, panic or kill -9.
#
# Programs are killed with SIGKILL: their data are discarded, and an API server without its etcd
# ignores SIGTERM for a minute. The newest ends first, because it depends on the older ones.

folder=$1
keep=${2:-}
running=''

# Each program runs in its own shell, which records its exit: `kill -0` cannot distinguish an ended
# child from a running one before it is waited for.
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
	# A program's script to undo effects that outlive it.
	[ ! -f "$folder/cleanup.sh" ] || sh "$folder/cleanup.sh"
	[ "$keep" = keep ] || rm -rf "$folder"
}

# A reply to a dead process or a closed terminal must not end the watchdog before the cleanup.
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
