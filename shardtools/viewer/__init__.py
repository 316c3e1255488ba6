"""Look at datasets and arrays in a browser: the page, what a server on this machine answers to it, and publishing it.

page/         the page itself: HTML, CSS and JavaScript, which also reads published datasets without a server
server.py     a request -> is it ours? -> a file of the page, or an answer
api.py        path and parameters -> one function of:
samples.py        pages of samples, fields, thumbnails
about.py          what the dataset is, also as NAME.view.json
asking.py         conditions and SQL, in limited time
hubs.py           names, history and slices of arrays
publish.py    the page and NAME.view.json beside a dataset
showing.py    the server of this process, for notebooks
"""
