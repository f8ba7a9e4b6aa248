# Runs one RabbitMQ node for the process that holds the other end of its standard input, and outlives that process
# only to clean up: however it ends, the orders end with it, and then so do the server, its epmd and the folder.
#
#   sh watchdog.sh FOLDER SERVER [EPMD]
#
# Orders, one a line          Answers
#   start                       "started PID", and "ended STATUS" once the server is gone
#   signal NAME                 "signalled"
folder=$1 server=$2 epmd=${3:-}
server_pid=$folder/server.pid # exists while the server runs
closing=$folder/closing       # exists once nothing may run any more

clean_up() {
  trap '' HUP INT TERM
  # The orders may end while a server is starting. The mark is made before the pid is looked for, and looked for after
  # the pid is written, so one of the two sides sees the other.
  : >"$closing"
  [ ! -s "$server_pid" ] || kill -KILL "$(cat "$server_pid")"
  [ -z "$epmd" ] || kill -KILL "$epmd_pid"
  wait
  rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
trap '' PIPE # nobody may be left to read the answers

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
