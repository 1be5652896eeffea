"""Drives the published Python SDKs against the gateway; fails with a traceback when one of them is not content.

Environment: ANTHROPIC_BASE_URL, OPENAI_BASE_URL and GATEWAY_TOKEN. The provider behind the gateway answers every
question with `echo: ` and the question, calls the tool `weather` when asked `/tool`, fails when asked `/fail <status>`,
and always claims to have taken 11 tokens in and 7 out. The last line printed is JSON: how many calls were answered.
"""

import asyncio
import json
import os

import anthropic
import openai

TOKEN = os.environ["GATEWAY_TOKEN"]
CLAUDE, GPT = "claude-test-1", "gpt-test-1"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
answered = 0


def same(actual, expected):
    assert actual == expected, f"{actual!r} is not {expected!r}"


def took(usage, names):
    global answered
    answered += 1
    same(tuple(getattr(usage, name) for name in names), (11, 7))


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def user(text):
    return [{"role": "user", "content": text}]


def check_anthropic(model):
    client = anthropic.Anthropic(api_key=TOKEN, max_retries=0)
    names = ("input_tokens", "output_tokens")
    ask = dict(model=model, max_tokens=100)

    message = client.messages.create(**ask, messages=user("hello world"))
    same(message.content[0].text, "echo: hello world")
    same((message.role, message.stop_reason, message.model), ("assistant", "end_turn", model))
    took(message.usage, names)

    with client.messages.stream(**ask, system="Be brief.", messages=user("count to three")) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1, pieces
    same("".join(pieces), "echo: count to three")
    took(final.usage, names)

    tools = [{"name": "weather", "description": "Looks out of the window.", "input_schema": WEATHER}]
    with client.messages.stream(**ask, tools=tools, messages=user("/tool Paris")) as stream:
        called = stream.get_final_message()
    took(called.usage, names)
    same(called.stop_reason, "tool_use")
    call = next(block for block in called.content if block.type == "tool_use")
    same((call.name, call.input), ("weather", {"city": "Paris"}))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}
    turns = [*user("/tool Paris"), {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    message = client.messages.create(**ask, tools=tools, messages=turns)
    same(message.content[0].text, "echo: 18 degrees")
    took(message.usage, names)

    assert client.messages.count_tokens(model=model, messages=user("one two three")).input_tokens > 0

    limited = raises(anthropic.RateLimitError, lambda: client.messages.create(**ask, messages=user("/fail 429")))
    same(limited.response.headers["retry-after"], "3")
    assert "as you wish" in limited.message, limited.message
    raises(anthropic.InternalServerError, lambda: client.messages.create(**ask, messages=user("/fail 500")))
    raises(anthropic.BadRequestError, lambda: client.messages.create(model=model, max_tokens=100, messages="nonsense"))
    raises(anthropic.NotFoundError, lambda: client.messages.batches.list())
    stranger = anthropic.Anthropic(api_key="sk-ant-of-somebody", max_retries=0)
    raises(anthropic.AuthenticationError, lambda: stranger.messages.create(**ask, messages=user("hello")))


async def check_anthropic_async(model):
    client = anthropic.AsyncAnthropic(api_key=TOKEN, max_retries=0)

    async def one(number):
        stream = await client.messages.create(
            model=model, max_tokens=100, stream=True, messages=user(f"number {number}")
        )
        said, usage = "", None
        async for event in stream:
            if event.type == "content_block_delta":
                said += event.delta.text
            if event.type == "message_delta":
                usage = event.usage
        same(said, f"echo: number {number}")
        same(usage.output_tokens, 7)

    await asyncio.gather(*(one(number) for number in range(8)))
    global answered
    answered += 8


def check_anthropic_models():
    client = anthropic.Anthropic(auth_token=TOKEN, api_key=None, max_retries=0)
    listed = [model.id for model in client.models.list()]
    assert listed, "there are models"
    for name in listed:
        same(client.models.retrieve(name).id, name)


def check_openai_chat(model):
    client = openai.OpenAI(api_key=TOKEN, max_retries=0)
    names = ("prompt_tokens", "completion_tokens")

    completion = client.chat.completions.create(model=model, messages=user("hello world"))
    same(completion.choices[0].message.content, "echo: hello world")
    same((completion.choices[0].finish_reason, completion.model), ("stop", model))
    took(completion.usage, names)

    said, usages = "", []
    stream = client.chat.completions.create(
        model=model, messages=user("count to three"), stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        said += "".join(choice.delta.content or "" for choice in chunk.choices)
        usages += [chunk.usage] if chunk.usage else []
    same(said, "echo: count to three")
    same(len(usages), 1)
    took(usages[0], names)

    global answered
    answered += 1
    for chunk in client.chat.completions.create(model=model, messages=user("no usage"), stream=True):
        assert chunk.choices and chunk.usage is None, chunk

    tools = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
    completion = client.chat.completions.create(model=model, messages=user("/tool Paris"), tools=tools)
    took(completion.usage, names)
    message = completion.choices[0].message
    same(completion.choices[0].finish_reason, "tool_calls")
    same(json.loads(message.tool_calls[0].function.arguments), {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "18 degrees"}
    turns = [*user("/tool Paris"), message.model_dump(exclude_none=True), result]
    with client.chat.completions.stream(
        model=model, messages=turns, tools=tools, stream_options={"include_usage": True}
    ) as stream:
        completion = stream.get_final_completion()
    same(completion.choices[0].message.content, "echo: 18 degrees")
    took(completion.usage, names)

    limited = raises(
        openai.RateLimitError, lambda: client.chat.completions.create(model=model, messages=user("/fail 429"))
    )
    same(limited.response.headers["retry-after"], "3")
    raises(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages="nonsense"))
    refused = raises(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="hello"))
    assert "embeddings" in refused.message, refused.message
    stranger = openai.OpenAI(api_key="sk-of-somebody", max_retries=0)
    unknown = raises(
        openai.AuthenticationError, lambda: stranger.chat.completions.create(model=model, messages=user("hello"))
    )
    same(unknown.code, "invalid_api_key")


def check_openai_responses(model):
    client = openai.OpenAI(api_key=TOKEN, max_retries=0)
    names = ("input_tokens", "output_tokens")

    response = client.responses.create(model=model, input="hello world")
    same((response.output_text, response.status, response.model), ("echo: hello world", "completed", model))
    took(response.usage, names)

    with client.responses.stream(model=model, instructions="Be brief.", input="count to three") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    same((said, final.output_text), ("echo: count to three", "echo: count to three"))
    took(final.usage, names)

    tools = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}]
    response = client.responses.create(model=model, input="/tool Paris", tools=tools)
    took(response.usage, names)
    call = next(item for item in response.output if item.type == "function_call")
    same((call.name, json.loads(call.arguments)), ("weather", {"city": "Paris"}))
    turns = [*user("/tool Paris"), *response.output, {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}]
    response = client.responses.create(model=model, input=turns, tools=tools)
    same(response.output_text, "echo: 18 degrees")
    took(response.usage, names)

    raises(openai.RateLimitError, lambda: client.responses.create(model=model, input="/fail 429"))
    raises(openai.BadRequestError, lambda: client.responses.create(model=model, input=7))
    refused = raises(openai.BadRequestError, lambda: client.responses.create(model=model, input="x", background=True))
    same(refused.param, "background")


def check_openai_models():
    client = openai.OpenAI(api_key=TOKEN, max_retries=0)
    listed = [model.id for model in client.models.list()]
    assert listed, "there are models"
    for name in listed:
        same(client.models.retrieve(name).id, name)


# Each SDK with its own vendor's model, and with the other's.
for model in (CLAUDE, GPT):
    check_anthropic(model)
    asyncio.run(check_anthropic_async(model))
    check_openai_chat(model)
    check_openai_responses(model)
check_anthropic_models()
check_openai_models()
print(json.dumps({"answered": answered}))
