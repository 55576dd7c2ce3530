"""Recipes that ship with agora_frames: `agora recipes` lists them, `agora run NAME` runs one.

A recipe is a module with a function of the same name: keyword-only, typed parameters, `backend` among them, and a Stage
as its result. Its signature is its command line. If the module has a function `seeds`, it gives the frame that is used
when no `--input` is given, and may take any of the recipe's parameters.
"""
