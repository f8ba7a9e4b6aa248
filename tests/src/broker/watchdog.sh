# Runs a RabbitMQ node for the process at the other end of the standard input, and cleans up after that process: however
# the process ends, the orders end with it, and the shell then ends the server and its epmd and removes the folder.
#
#   sh watchdog.sh FOLDER SERVER [EPMD]
#
# Orders, one a line          Answers
#   start                       "started PID", and "ended STATUS" once the server is gone
#   signal NAME                 "signalled"
folder=$1 server=$2 epmd=${3:-}
server_pid=$folder/server.pid # exists while the server runs
closing=$folder/closing       # exists once no server may run any more

clean_up() {
  trap '' HUP INT TERM
  # The orders may end while a server starts. This side writes the mark before it reads the pid; the starting side
  # writes the pid before it reads the mark. So one of the two sides sees the other.
  : >"$closing"
  [ ! -s "$server_pid" ] || kill -KILL "$(cat "$server_pid")"
  [ -z "$epmd" ] || kill -KILL "$epmd_pid"
  wait
  rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
trap '' PIPE # the reader of the answers may be gone

if [ -n "$epmd" ]; then
  "$epmd" </dev/null >/dev/null 2>&1 &
  epmd_pid=$!
fi

while read -r order argument; do
  case $order in
    start)
      (
        "$server" </dev/null >>"$folder/log/server.out" 2>&1 &
        echo $! >"$server_pid"
        [ ! -e "$closing" ] || kill -KILL $!
        echo "started $!"
        wait $!
        status=$?
        rm -f "$server_pid"
        echo "ended $status"
      ) &
      ;;
    signal)
      [ ! -s "$server_pid" ] || kill -s "$argument" "$(cat "$server_pid")"
      echo signalled
      ;;
  esac
done
