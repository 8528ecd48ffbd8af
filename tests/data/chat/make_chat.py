"""Asks transformers how chat templates write dialogues. Run it as a script, with transformers 4.57.6.

Writes chat.json: for each tokenizer (of small_tokenizers.FOLDERS, or ../tokenizer/saved), template and
dialogue the text and the token ids of apply_chat_template; "raised" where the template refuses the dialogue.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]
from helpers.small_tokenizers import FOLDERS, write_files  # noqa: E402

TEMPLATES = {
    "dialogpt": "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}",
    "chatml": """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "words": """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- message.content | trim + '\\n\\n' }}
        {%- continue %}
    {%- elif (message.role == 'user') != (loop.index0 % 2 == 0) and messages[0].role != 'system' %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {{- message.role | capitalize ~ ': ' ~ message.content.strip() ~ eos_token }}
{%- endfor %}
{%- if tools is not none %}tools{% endif %}
{%- if strftime_now is defined %}{{ '.' }}{% endif %}
{%- generation %}Assistant:{% endgeneration %}""",
    "json": "{{ messages | tojson }}{% if messages[0].name is defined %}!{% endif %}{{ eos_token }}",
}
DIALOGUES = [
    [("user", "the king had a son")],
    [("system", " they went to the sea\n"), ("user", 'is he fond of "his" horse?'), ("assistant", "he was.")],
    [("user", "Once upon a time"), ("assistant", "caf\u00e9 \U0001f999\n\n"), ("user", "  a <b> & 'c'  ")],
    [("user", "a"), ("user", "b")],
    [("user", "")],
]  # fmt: skip


def main() -> None:
    cases = []
    for name in ("saved", "gpt2", "add-bos", "bert", "metaspace"):
        with tempfile.TemporaryDirectory() as folder:
            if name == "saved":
                shutil.copytree(HERE.parent / "tokenizer/saved", folder, dirs_exist_ok=True)
            else:
                write_files(Path(folder), FOLDERS[name])
                Path(folder, "config.json").write_text('{"model_type": "gpt2"}')
            tokenizer = AutoTokenizer.from_pretrained(folder)
            for kind, template in TEMPLATES.items():
                for dialogue in DIALOGUES:
                    messages = [{"role": role, "content": content} for role, content in dialogue]
                    cases.append({"tokenizer": name, "template": kind, "messages": messages})
                    cases[-1] |= asked(tokenizer, template, messages)
    found = {"templates": TEMPLATES, "cases": cases}
    (HERE / "chat.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def asked(tokenizer, template, messages):
    how = {"chat_template": template, "add_generation_prompt": True}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except Exception as error:
        return {"raised": str(error)}
    return {"text": text, "ids": tokenizer.apply_chat_template(messages, **how)}


if __name__ == "__main__":
    main()
