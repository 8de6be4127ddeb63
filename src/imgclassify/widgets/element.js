// A new element inside another; every script of our widgets begins with this function (`script` in handlers.py).

function element(tag, className, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties, { className });
  made.dataset.lmSuppressShortcuts = "true"; // keys that are pressed here are no commands of JupyterLab
  parent?.append(made);
  return made;
}

