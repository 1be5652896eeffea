"""The smallest agent in Python: prompt on standard input, answer on standard output, standard library only.

The model is reached through the variables that OpenAI's SDKs read; the key is a token for this run alone.
"""

import json
import os
import sys
import urllib.error
import urllib.request

prompt = sys.stdin.read()
if not prompt.strip():
    sys.exit("The prompt is empty.")

request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions",
    data=json.dumps(
        {
            "model": os.environ["CASTARI_DEFAULT_MODEL"],
            "max_tokens": 300,
            "messages": [{"role": "user", "content": prompt}],
        }
    ).encode(),
    headers={
        "content-type": "application/json",
        "authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
    },
)
try:
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
except urllib.error.HTTPError as error:
    sys.exit(f"The model answered {error.code}: {error.read().decode(errors='replace')}")
print(answer["choices"][0]["message"]["content"])
