"""Where a model that draws looks for its words: attention of patches to the words of a prompt."""
