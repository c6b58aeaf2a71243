"""The leak that scripts/services gives each handler, and a handler's usual work."""
import json

KEPT = []


def remember(request):
    KEPT.append(bytearray(20_000 + len(request)))


def answer(request):
    text = json.dumps([{"id": number, "name": "item %d" % number} for number in range(50)])
    remember(request)
    return "%d bytes, %d kept\n" % (len(json.loads(text)), len(KEPT))
