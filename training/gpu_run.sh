#!/bin/sh
# Trains both bundled networks side by side on one GPU:
#     OUT=out/trained sh training/gpu_run.sh PACKS MINUTES
# Stops everything when one of them fails to start.
set -u
packs=$1
minutes=$2
work=${WORK:-/tmp/training}
mkdir -p "$work" "$OUT"
export PYTHONPATH=. PYTHONUNBUFFERED=1
images="$packs/images.zip $packs/streets.zip"
python3 training/train_r2d2.py --pack $images --out "$work/r2d2" \
    --minutes "$minutes" > "$work/r2d2.txt" 2>&1 &
pids=$!
python3 training/train_apgem.py --pack $images --trunk "$packs/mobilenet_v2.safetensors" \
    --out "$work/apgem" --minutes "$minutes" > "$work/apgem.txt" 2>&1 &
pids="$pids $!"
sleep 75
for pid in $pids; do
    kill -0 "$pid" || { kill $pids; tail -n 25 "$work"/*.txt; exit 1; }
done
tail -n 3 "$work"/*.txt
wait
for network in r2d2 apgem; do
    cp "$work/$network/network.safetensors" "$OUT/$network.safetensors"
done
tar -czf "$OUT/logs.tar.gz" -C "$work" --exclude '*.pt' --exclude '*.safetensors' .
tail -n 6 "$work"/*.txt
