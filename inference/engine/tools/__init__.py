"""Tool calls: how families of models write them, and how we read, force and describe them.

families    which family a chat template belongs to
forms       what a family is made of: its markers, its scanner, its grammar
hermes, llama3, mistral, gemma, generic     one family each
json_call   reads {"name": …, "arguments": …} as it arrives
parser      text of a model → text for the client, and calls; what only looked like a call stays text
grammars    what `required`, a named tool and `strict` may write (rules, unquoted: its parts)
described   messages for templates that know no tools
"""
